"""Quality of a registration: consistency, expected error, measures, checks, self-test, calibration."""

"""Pictures and pages: a registration, an evaluation."""

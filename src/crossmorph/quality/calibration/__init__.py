"""Calibration of a model: its errors on simulated pairs, from which error network, error model and limits follow."""

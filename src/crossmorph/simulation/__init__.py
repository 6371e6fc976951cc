"""Simulated scans: anatomy, MR signals, noise and bias field, deformations, heads, lesions."""

"""Peers the evaluation compares with."""

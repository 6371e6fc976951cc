"""Evaluation of registration methods on a list of pairs."""

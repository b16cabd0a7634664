"""Measurements, each a command; their last results are in README.md."""

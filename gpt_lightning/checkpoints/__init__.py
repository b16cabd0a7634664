"""Checkpoints: what a file holds, and loading what others wrote."""

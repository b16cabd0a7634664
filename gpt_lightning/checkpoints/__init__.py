"""Checkpoints that train.py writes: saving, checking and loading them, and the directories they lie in."""

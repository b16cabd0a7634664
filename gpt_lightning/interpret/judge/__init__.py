"""Judging what was measured: numbers in, words and choices out. Knows nothing of pictures."""

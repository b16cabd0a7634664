"""Measuring: a network and tokens in, numbers out. Knows no verdicts, pictures or files."""

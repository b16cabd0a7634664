"""Pictures of what was measured and judged: numbers and words in, pictures out. Knows nothing of models or files."""

"""What each layer and head does: tensors in, numbers, verdicts and pictures out. Knows no Lightning and no files."""

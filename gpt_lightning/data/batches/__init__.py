"""Batches: which samples, in which order, as tensors."""

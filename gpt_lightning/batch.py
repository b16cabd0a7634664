"""What a batch is, for those who make it, train on it and look at it."""

from torch import Tensor

Batch = tuple[Tensor, Tensor]  # inputs and targets, (B, T) int64 each; targets are the inputs shifted by one
IGNORED = -100  # the target of a position that does not count: PyTorch's default

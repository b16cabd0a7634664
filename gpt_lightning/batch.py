"""What a batch is, for the code that makes it, trains on it or looks at it."""

from torch import Tensor

Batch = tuple[Tensor, Tensor]  # inputs and targets, (B, T) int64 each; targets are the inputs shifted by one
IGNORED = -100  # the target of a position that does not count: PyTorch's default

"""FSDP: each process keeps a share of the weights, gradients and optimiser state, and has a block whole only to use it.

PyTorch's `fully_shard`, which works with gloo on CPUs as with NCCL on GPUs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from gpt_lightning.model import GPT


def shard(gpt: GPT) -> None:
    """Share the network out among all processes: each block, and together what lies outside the blocks."""
    for block in gpt.blocks:
        fully_shard(block)
    fully_shard(gpt)
    register_fsdp_forward_method(gpt, "hidden_states")  # what the loss calls instead of `forward`


def reshard(gpt: nn.Module) -> None:
    """Keep only the share of what lies outside the blocks, which stays whole after a forward without backward."""
    if isinstance(gpt, FSDPModule):
        gpt.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor put together from its shares; for every process to call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """What this process keeps of a tensor, if it keeps a share of `parameter`; on its device."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


@contextmanager
def gathered_network(pl_module: L.LightningModule) -> Iterator[None]:
    """For rank zero to use `pl_module.model` alone: if that is shared out, it has a whole copy there meanwhile."""
    shared = pl_module.model
    if isinstance(shared, FSDPModule):
        weights = get_model_state_dict(shared, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if pl_module.global_rank == 0:
            pl_module.model = GPT(shared.config).to(pl_module.device)
            pl_module.model.load_state_dict(weights)
    try:
        yield
    finally:
        pl_module.model = shared


def number_as_network(state: dict[str, Any], optimizer: Optimizer, gpt: nn.Module) -> None:
    """Number the parameters in an optimiser's state as the network does and FSDP expects, not by groups."""
    order = {id(parameter): number for number, parameter in enumerate(gpt.parameters())}
    numbers = [order[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state["state"] = {numbers[number]: values for number, values in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [numbers[number] for number in group["params"]]

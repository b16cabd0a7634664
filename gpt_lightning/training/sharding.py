"""FSDP: each process keeps a share of the weights, gradients and optimiser state, and gathers a block's weights only
while it uses them. PyTorch's `fully_shard` does it, with gloo on CPUs as with NCCL on GPUs.
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
    """Shard the network over all processes: each block by itself, and everything outside the blocks together."""
    for block in gpt.blocks:
        fully_shard(block)
    fully_shard(gpt)
    register_fsdp_forward_method(gpt, "hidden_states")  # what the loss calls instead of `forward`


def reshard(gpt: nn.Module) -> None:
    """Keep only a share of what lies outside the blocks too, which stays gathered after a forward without backward."""
    if isinstance(gpt, FSDPModule):
        gpt.reshard()


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor put together from its shares; every process has to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's share of a tensor that is sharded as `parameter` is, on the device of `parameter`."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


@contextmanager
def gathered_network(pl_module: L.LightningModule) -> Iterator[None]:
    """Let rank zero use `pl_module.model` alone; a sharded network is replaced there by a full copy meanwhile."""
    network = pl_module.model
    if isinstance(network, FSDPModule):
        weights = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if pl_module.global_rank == 0:
            pl_module.model = GPT(network.config).to(pl_module.device)
            pl_module.model.load_state_dict(weights)
    try:
        yield
    finally:
        pl_module.model = network


def number_as_network(state: dict[str, Any], optimizer: Optimizer, gpt: nn.Module) -> None:
    """Number the parameters in an optimiser's state in the network's order, as FSDP expects, not by groups."""
    order = {id(parameter): number for number, parameter in enumerate(gpt.parameters())}
    numbers = [order[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state["state"] = {numbers[number]: values for number, values in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [numbers[number] for number in group["params"]]

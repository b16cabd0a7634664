"""GPT-2's weights under the names that its other implementations give them, which all follow OpenAI's.

Shapes: L layers, C model width, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT, GPTConfig

OUTSIDE_BLOCKS = {
    "transformer.wte": "token_embedding",
    "transformer.wpe": "position_embedding",
    "transformer.ln_f": "norm",
    "lm_head": "head",
}
IN_BLOCKS = {
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.output",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
# Hugging Face's GPT-2 keeps the weight of a linear layer as (in, out), its "Conv1D".
TRANSPOSED = tuple(f"{name}.weight" for name in IN_BLOCKS if "c_" in name)


def their_names(config: GPTConfig) -> dict[str, str]:
    """From the name of each weight in our network to its name in theirs."""
    pairs = dict(OUTSIDE_BLOCKS)
    for layer in range(config.n_layer):
        pairs |= {f"transformer.h.{layer}.{theirs}": f"blocks.{layer}.{ours}" for theirs, ours in IN_BLOCKS.items()}
    ours_to_theirs = {ours: theirs for theirs, ours in pairs.items()}
    with torch.device("meta"):
        names = GPT(config).state_dict()
    split = (name.rsplit(".", 1) for name in names)
    return {f"{module}.{kind}": f"{ours_to_theirs[module]}.{kind}" for module, kind in split}


def fill(
    config: GPTConfig, shapes: dict[str, tuple], read: Callable[[str], Tensor], transposed: bool, what: str
) -> GPT:
    """A network of these sizes, in evaluation mode and float32, with the weights that `read(their name)` gives.

    Args:
        config: Sizes; they are compared with the shapes before there is memory for them.
        shapes: Of all that can be read.
        read: From their name to the weight.
        transposed: Whether linear layers are (in, out).
        what: What is read, for messages.

    Raises:
        UserError: weights are missing, of another shape, or more than such a network has.
    """
    last = f"transformer.h.{config.n_layer - 1}.ln_1.weight"
    if config.n_layer > len(shapes) or last not in shapes:  # first: names for a billion layers take a while
        raise UserError(f"{what} has no weight {last}.")
    names = their_names(config)
    if config.tie_weights:
        del names["head.weight"]
    with torch.device("meta"):
        expected = {name: tuple(weight.shape) for name, weight in GPT(config).state_dict().items() if name in names}
    for ours, theirs in names.items():
        if theirs not in shapes:
            raise UserError(f"{what} has no weight {theirs}.")
        shape = expected[ours][::-1] if transposed and theirs.endswith(TRANSPOSED) else expected[ours]
        if tuple(shapes[theirs]) != shape:
            raise UserError(f"{what} has {theirs} of shape {tuple(shapes[theirs])}, but its sizes ask for {shape}.")
    if more := sorted(shapes.keys() - names.values() - {"lm_head.weight"}):
        raise UserError(f"{what} has {more[0]}, which GPT-2 has not: another architecture.")
    gpt = GPT(config)
    weights = gpt.state_dict()
    for ours, theirs in names.items():
        weight = read(theirs)
        weights[ours].copy_(weight.mT if transposed and theirs.endswith(TRANSPOSED) else weight)
    return gpt.eval()


def weights_by_their_names(gpt: GPT, transposed: bool) -> dict[str, Tensor]:
    """The network's weights as they expect them, on the CPU in float32; a missing bias is one of zeros, a tied head is
    left out.

    Raises:
        UserError: the network has something that GPT-2 has not.
    """
    config = gpt.config
    gpt2 = {"position": ["learned"], "norm": ["layer"], "qk_norm": [False], "activation": ["gelu", "gelu_erf"]}
    if beyond := [f"{name}: {getattr(config, name)}" for name in gpt2 if getattr(config, name) not in gpt2[name]]:
        raise UserError(f"GPT-2 has no {', no '.join(beyond)}: such a network cannot be written in its format.")
    written = {}
    ours = gpt.state_dict()
    for name, theirs in their_names(config).items():
        if theirs == "lm_head.weight" and config.tie_weights:
            continue
        weight = ours[name].detach().float().cpu()
        written[theirs] = (weight.mT if transposed and theirs.endswith(TRANSPOSED) else weight).contiguous().clone()
        bias = theirs.removesuffix("weight") + "bias"
        has_bias = theirs.endswith(".weight") and theirs.startswith("transformer.") and "wte" not in theirs
        if has_bias and "wpe" not in theirs and name.removesuffix("weight") + "bias" not in ours:
            written[bias] = torch.zeros(ours[name].size(0))
    return written

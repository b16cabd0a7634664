"""A network in JSON and safetensors files: reading and writing them, and a network from weights that fit its sizes.

Sizes are compared on the "meta" device, which takes no memory, so no file can claim more memory than it fills itself.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file
from gpt_lightning.model import GPT, GPTConfig

CONFIG = "config.json"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError if the file is missing, or holds none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content


def read_weights(paths: list[Path], rename: Callable[[str], str | None] = lambda name: name) -> dict[str, Tensor]:
    """The weights in safetensors files, mapped from them, by name; without those that `rename` makes None.

    Raises:
        UserError: a file is missing, damaged, or not what its header says.
    """
    weights = {}
    for path in paths:
        if not path.is_file():
            raise UserError(f"There is no {path}.")
        try:
            with safe_open(path, "pt") as file:
                names = {rename(name): name for name in file.keys()}  # noqa: SIM118  not a dict
                weights |= {new: file.get_tensor(name) for new, name in names.items() if new is not None}
        except SafetensorError as error:
            raise UserError(f"{path} is not a complete safetensors file: {error}.") from error
    return weights


def network_config(given: Mapping[str, Any], names: Mapping[str, str], where: Path, **options: Any) -> GPTConfig:
    """The configuration of a network that another file describes.

    Args:
        given: What the file says.
        names: From fields of `GPTConfig` to their names there.
        where: The file, for messages.
        options: More fields of `GPTConfig`.

    Raises:
        UserError: a field is missing, or there can be no such network.
    """
    if missing := [theirs for theirs in names.values() if theirs not in given]:
        raise UserError(f"{where} does not say {', '.join(missing)}.")
    try:
        return GPTConfig(**{ours: given[theirs] for ours, theirs in names.items()}, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} does not give the sizes of a network: {error}.") from error


def stored_shapes(config: GPTConfig) -> dict[str, torch.Size]:
    """The shapes of the weights to store, by our names; a tied head is the token embedding and not stored."""
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in GPT(config).state_dict().items()}
    if config.tie_weights:
        del shapes["head.weight"]
    return shapes


def fill(
    config: GPTConfig,
    weights: Mapping[str, Tensor],
    where: Path,
    their_name: Callable[[str], str] = lambda ours: ours,
    transposed: tuple[str, ...] = (),
) -> GPT:
    """A network with the weights that a file holds, in evaluation mode and float32.

    Args:
        config: Its sizes and options.
        weights: By their names.
        where: The file, for messages.
        their_name: From our name of a weight to theirs.
        transposed: Ends of their names of weights that are (in, out), where ours are (out, in).

    Raises:
        UserError: a weight is missing, has another shape, is not of floating-point numbers, or has no place here.
    """
    if config.n_layer > len(weights):  # first: to build a billion layers takes long, even without memory
        raise UserError(f"{where} holds {len(weights):,} weights, too few for {config.n_layer:,} layers.")
    expected = {their_name(ours): (ours, shape) for ours, shape in stored_shapes(config).items()}
    for name, (_, shape) in expected.items():
        if name not in weights:
            raise UserError(f"{where} has no weight {name}.")
        actual, wanted = tuple(weights[name].shape), tuple(shape[::-1] if name.endswith(transposed) else shape)
        if actual != wanted:
            raise UserError(f"{where} has {name} of shape {actual}, but its sizes ask for {wanted}.")
    if more := sorted(weights.keys() - expected.keys() - {their_name("head.weight")}):
        raise UserError(f"{where} has {more[0]}, for which a network of its sizes and options has no place.")
    gpt = GPT(config)
    state = gpt.state_dict()
    for name, (ours, _) in expected.items():
        weight = weights[name]
        if not weight.is_floating_point():  # such as quantised ones
            raise UserError(f"{name} is stored as {weight.dtype}, not as floating-point numbers.")
        state[ours].copy_(weight.mT if name.endswith(transposed) else weight)
    return gpt.eval()


def write_network(directory: Path, config: dict[str, Any], weights_name: str, weights: dict[str, Tensor]) -> list[Path]:
    """Write the weights, in float32, and `config.json`, each atomically; return the paths of both."""
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
    with atomic_file(directory / weights_name) as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with atomic_file(directory / CONFIG) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")
    return [directory / CONFIG, directory / weights_name]

"""Files of networks: JSON and safetensors, read into a network only when they fit its sizes.

Sizes are compared on the "meta" device, which has no memory: no file makes us ask for more than it holds itself.
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
    """The object in a JSON file; UserError if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content


class WeightFiles:
    """Weights by name in several safetensors files, which are mapped into memory.

    Raises:
        UserError: a file is missing, damaged, or not what its header says.
    """

    def __init__(self, paths: list[Path], rename: Callable[[str], str | None] = lambda name: name) -> None:
        self._place: dict[str, tuple[Any, str]] = {}
        for path in paths:
            if not path.is_file():
                raise UserError(f"There is no {path}.")
            try:
                file = safe_open(path, "pt")
                self._place |= {rename(name): (file, name) for name in file.keys()}  # noqa: SIM118  not a dict
            except SafetensorError as error:
                raise UserError(f"{path} is not a complete safetensors file: {error}.") from error
        self._place.pop(None, None)
        self.shapes = {name: tuple(f.get_slice(key).get_shape()) for name, (f, key) in self._place.items()}

    def read(self, name: str) -> Tensor:
        """One weight; UserError if its numbers are not floating-point, as quantised ones are."""
        file, key = self._place[name]
        weight = file.get_tensor(key)
        if not weight.is_floating_point():
            raise UserError(f"{name} is stored as {weight.dtype}, not as floating-point numbers.")
        return weight


def network_config(given: Mapping[str, Any], names: Mapping[str, str], where: Path, **options: Any) -> GPTConfig:
    """The network of a configuration that the file `where` holds, which has its own `names` for fields of `GPTConfig`;
    `options` are more fields. UserError if one is missing, or there can be no such network."""
    if missing := [theirs for theirs in names.values() if theirs not in given]:
        raise UserError(f"{where} does not say {', '.join(missing)}.")
    try:
        return GPTConfig(**{ours: given[theirs] for ours, theirs in names.items()}, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} does not give the sizes of a network: {error}.") from error


def stored_shapes(config: GPTConfig) -> dict[str, torch.Size]:
    """Shapes of the weights that are stored of such a network; a tied head is the token embedding."""
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in GPT(config).state_dict().items()}
    if config.tie_weights:
        del shapes["head.weight"]
    return shapes


def fill(
    config: GPTConfig,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    where: Path,
    their_name: Callable[[str], str] = lambda ours: ours,
    transposed: tuple[str, ...] = (),
) -> GPT:
    """A network of these sizes, in evaluation mode and float32, with the weights that `read(their name)` returns.

    Args:
        config: Its sizes and options.
        shapes: Of all the weights that can be read, by their names.
        read: From their name to the weight.
        where: What is read, for messages.
        their_name: From our name of a weight to theirs.
        transposed: Ends of their names of weights that are (in, out), where ours are (out, in).

    Raises:
        UserError: a weight is missing, of another shape, or one that such a network has not.
    """
    if config.n_layer > len(shapes):  # first: to build a billion layers takes long, even without memory
        raise UserError(f"{where} holds {len(shapes):,} weights, too few for {config.n_layer:,} layers.")
    expected = stored_shapes(config)
    theirs = {ours: their_name(ours) for ours in expected}
    for ours, name in theirs.items():
        if name not in shapes:
            raise UserError(f"{where} has no weight {name}.")
        shape = tuple(expected[ours][::-1] if name.endswith(transposed) else expected[ours])
        if shapes[name] != shape:
            raise UserError(f"{where} has {name} of shape {shapes[name]}, but its sizes ask for {shape}.")
    if more := sorted(shapes.keys() - theirs.values() - {their_name("head.weight")}):
        raise UserError(f"{where} has {more[0]}, for which a network of its sizes and options has no place.")
    gpt = GPT(config)
    weights = gpt.state_dict()
    for ours, name in theirs.items():
        weight = read(name)
        weights[ours].copy_(weight.mT if name.endswith(transposed) else weight)
    return gpt.eval()


def write_network(directory: Path, config: dict[str, Any], weights_name: str, weights: dict[str, Tensor]) -> list[Path]:
    """Write `config.json` and the weights, in float32, each atomically; return their paths."""
    paths = [directory / CONFIG, directory / weights_name]
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
    with atomic_file(paths[1]) as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with atomic_file(paths[0]) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")
    return paths

"""Weights in safetensors: one file or several, read one at a time into a network whose sizes were compared before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt_lightning.errors import UserError


class WeightFiles:
    """Weights by name in several files, which are mapped into memory.

    Raises:
        UserError: a file is missing or damaged; its header lies about it.
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
                raise UserError(f"The weights in {path} are no complete safetensors: {error}.") from error
        self._place.pop(None, None)
        self.shapes = {name: tuple(f.get_slice(key).get_shape()) for name, (f, key) in self._place.items()}

    def read(self, name: str) -> Tensor:
        """One weight; UserError if its numbers are not floating-point, as quantised ones are."""
        file, key = self._place[name]
        weight = file.get_tensor(key)
        if not weight.is_floating_point():
            raise UserError(f"{name} is stored as {weight.dtype}, not as floating-point numbers.")
        return weight

"""Ranges of numbers as types for annotations. `--help` shows them, and the parser checks the command line and YAML
against them; `check_arguments` does the same for callers from Python.

Values stay plain numbers. jsonargparse's own restricted types would leave their classes in checkpoints, which then
would not load with weights_only=True.
"""

import math
import operator
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from jsonargparse.typing import register_type

from gpt_lightning.errors import UserError

LARGEST_INT = 2**53 - 1  # every integer up to here is also exact as a floating-point number
_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


class OutOfRange(ValueError, ArgumentTypeError):
    """A value that a range does not take. argparse passes on the message of an ArgumentTypeError only."""


def number_type(name: str, base: type, words: str, *limits: tuple[str, float]) -> type:
    """A type of numbers within limits. Called with a number, or the text of one, it returns the plain number.

    Args:
        name: For `--help`.
        base: int or float.
        words: What such a number must be, for messages.
        limits: Comparisons that must all hold, such as (">", 0).
    """

    def check(value: Any) -> int | float:
        try:
            if base is int and isinstance(value, str) and "e" in value.lower():
                value = float(value)  # such as 1e9
            number = base(value)
            if isinstance(value, bool) or (isinstance(value, float) and number != value and value == value):
                raise ValueError
        except (ValueError, TypeError, OverflowError):
            raise OutOfRange(f"{value!r} is not a {'whole ' if base is int else ''}number") from None
        if not all(_COMPARE[sign](number, limit) for sign, limit in limits):
            raise OutOfRange(f"{value} is out of range: it must be {words}")
        return number

    def is_one(value: Any, _: type) -> bool:
        """Whether jsonargparse can take a value as it is."""
        try:
            return type(value) is base and check(value) is not None
        except ValueError:
            return False

    made = type(name, (base,), {"__new__": lambda cls, value: check(value), "__doc__": f"A number {words}."})
    register_type(made, serializer=base, deserializer=check, type_check=is_one)
    _RANGES.add(made)
    return made


_RANGES: set[type] = set()

PositiveInt = number_type("PositiveInt", int, "at least 1", (">=", 1), ("<=", LARGEST_INT))
NonNegativeInt = number_type("NonNegativeInt", int, "at least 0", (">=", 0), ("<=", LARGEST_INT))
Seed = number_type("Seed", int, "from 0 to 2^63 - 1", (">=", 0), ("<", 2**63))
PositiveFloat = number_type("PositiveFloat", float, "above 0 and finite", (">", 0), ("<", math.inf))
NonNegativeFloat = number_type("NonNegativeFloat", float, "at least 0 and finite", (">=", 0), ("<", math.inf))
AboveOne = number_type("AboveOne", float, "above 1", (">", 1))
ClosedUnitInterval = number_type("ClosedUnitInterval", float, "from 0 to 1", (">=", 0), ("<=", 1))
PositiveShare = number_type("PositiveShare", float, "above 0 and at most 1", (">", 0), ("<=", 1))
ShareBelowOne = number_type("ShareBelowOne", float, "at least 0 and below 1", (">=", 0), ("<", 1))


def check_arguments(constructor: Any, arguments: Mapping[str, Any], section: str, problems: Sequence[str] = ()) -> None:
    """Check a constructor's arguments against the ranges in its annotations, as the parser does for the command line.

    Args:
        constructor: With the annotations, such as `GPTModule.__init__`.
        arguments: What it was called with; arguments without a range are ignored.
        section: Where the options stand in YAML, for the message.
        problems: Clauses that say what else is wrong, to be reported with the rest.

    Raises:
        UserError: names every argument that is out of range.
    """
    problems = list(problems)
    for name, hint in get_type_hints(constructor).items():
        allowed = {hint, *get_args(hint)} & _RANGES
        value = arguments.get(name)
        if not allowed or (value is None and type(None) in get_args(hint)):
            continue
        try:
            allowed.pop()(value)
        except ValueError as error:
            problems.append(f"{section}.{name}: {error}")
    if problems:
        raise UserError(f"{'; '.join(problems)}.")

"""The options of text generation. They do not import torch, so that generate.py answers --help at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpt_lightning.ranges import NonNegativeFloat, PositiveInt, PositiveShare, Seed, check_arguments, number_type

Penalty = number_type("Penalty", float, "from 0.01 to 100", (">=", 0.01), ("<=", 100))  # keeps logits finite
SampleCount = number_type("SampleCount", int, "from 1 to 1024", (">=", 1), ("<=", 1024))  # fits into memory


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: after the repetition penalty, the filters apply in the order of the fields.

    Args:
        temperature: 0 takes the likeliest token; 1 samples as trained.
        top_k: Sample among the k likeliest tokens only.
        top_p: Sample among the fewest likeliest whose probabilities sum to this (Holtzman et al. 2020).
        min_p: Sample among those at least this share as likely as the likeliest (Nguyen et al. 2024).
        repetition_penalty: Above 1, makes tokens of the prompt and the continuation less likely (Keskar et al. 2019).
        seed: The same seed gives the same tokens.

    Raises:
        UserError: names every option that is out of range.
    """

    temperature: NonNegativeFloat = 0.8
    top_k: PositiveInt | None = None
    top_p: PositiveShare | None = None
    min_p: PositiveShare | None = None
    repetition_penalty: Penalty = 1.0
    seed: Seed = 1337

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self), "sampling")


@dataclass(frozen=True)
class Extent:
    """How much text is generated, and where it ends.

    Args:
        samples: How many continuations of the prompt.
        max_new_tokens: Length of each; None means to the end of the context or, with `slide`, a context's length.
        stop: Strings that end a continuation and are not part of it.
        slide: Past the end of the context, go on from its second half; without it, asking for more is an error.

    Raises:
        UserError: names every option that is out of range.
    """

    samples: SampleCount = 1
    max_new_tokens: PositiveInt | None = None
    stop: Sequence[str] = ()
    slide: bool = False

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self), "extent")

"""Text in, text out: encode a prompt, sample tokens, and decode them without breaking a character in two."""

import codecs
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import tiktoken
import torch

from gpt_lightning.data.tokenizer import END_OF_TEXT, encode_bytes
from gpt_lightning.decoding.generation import generate
from gpt_lightning.decoding.options import Extent, Sampling
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT


class TextStream:
    """Decodes the tokens of one sequence into pieces of text: complete characters, and no part of a stop string.

    Bytes that are not UTF-8 come out as �. `ended` is true once a stop string or the end-of-text token has come.
    """

    def __init__(self, encoding: tiktoken.Encoding, stop: Sequence[str] = ()) -> None:
        self.encoding, self.stop, self.ended = encoding, tuple(stop), False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def feed(self, token: int) -> str:
        """The text that can be shown after this token."""
        if self.ended:
            return ""
        if self.encoding.is_special_token(token) and self.encoding.decode([token]) == END_OF_TEXT:
            return self.close()
        try:
            piece = self.encoding.decode_single_token_bytes(token)
        except KeyError:  # an unused id, which an untrained network may sample
            piece = b""
        return self._pass_on(self._decoder.decode(piece))

    def close(self) -> str:
        """End the text; return what was held back."""
        if self.ended:
            return ""
        text = self._pass_on(self._decoder.decode(b"", final=True))
        self.ended, held, self._held = True, self._held, ""
        return text + held

    def _pass_on(self, text: str) -> str:
        text = self._held + text
        ends = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if ends:
            self.ended, self._held = True, ""
            return text[: min(ends)]
        # Hold back what may be the start of a stop string.
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        starts = range(max(0, len(text) - longest), len(text))
        cut = next((at for at in starts if any(stop.startswith(text[at:]) for stop in self.stop)), len(text))
        self._held = text[cut:]
        return text[:cut]


def generate_texts(
    gpt: GPT, encoding: tiktoken.Encoding, prompt: str, sampling: Sampling, extent: Extent, compiled: bool = False
) -> Iterator[list[str]]:
    """Sample continuations of `prompt`: yield a piece of each after every token, and at the end what was held back.

    Pieces are complete characters. A continuation ends as `extent` says, or with the end-of-text token.

    Args:
        gpt: The network, in eval mode.
        encoding: The tokenizer that it was trained with.
        prompt: Text of at least one token.
        sampling: How each token is drawn.
        extent: How many continuations, and how long.
        compiled: As for `generate`.

    Raises:
        UserError: the prompt is empty or not text, or prompt and continuation don't fit into the context.
    """
    tokens = encode_prompt(encoding, prompt)
    new = room_for(len(tokens), gpt.config.context_length, extent)
    prompt_BT = torch.tensor(tokens.astype("int64"), device=gpt.head.weight.device)[None]
    streams = [TextStream(encoding, extent.stop) for _ in range(extent.samples)]
    for token_B in islice(generate(gpt, prompt_BT, sampling, extent.samples, encoding.n_vocab, compiled), new):
        yield [stream.feed(token) for stream, token in zip(streams, token_B.tolist(), strict=True)]
        if all(stream.ended for stream in streams):
            break
    yield [stream.close() for stream in streams]


def generate_text(
    gpt: GPT, encoding: tiktoken.Encoding, prompt: str, sampling: Sampling, max_new_tokens: int | None = None
) -> Iterator[str]:
    """As `generate_texts`, for one continuation."""
    for (piece,) in generate_texts(gpt, encoding, prompt, sampling, Extent(max_new_tokens=max_new_tokens)):
        yield piece


def encode_prompt(encoding: tiktoken.Encoding, prompt: str) -> np.ndarray:
    """The tokens of a prompt; UserError if there are none, or the prompt is not text."""
    try:
        tokens = encode_bytes(encoding, prompt.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise UserError(
            f"The prompt holds {prompt[error.start]!a}, which is half a character; leave it out."
        ) from error
    if len(tokens) == 0:
        raise UserError("The prompt is empty; give at least one character to go on from.")
    return tokens


def room_for(prompt_length: int, context_length: int, extent: Extent) -> int:
    """How many tokens to add to a prompt of `prompt_length`; UserError if they don't fit into the context."""
    room = context_length if extent.slide else context_length - prompt_length
    if room < 1:
        raise UserError(
            f"The prompt is {prompt_length} tokens long, but the network's context holds {context_length}, the "
            "continuation included; shorten the prompt."
        )
    wanted = extent.max_new_tokens or room
    if wanted > room and not extent.slide:
        raise UserError(
            f"{wanted} new tokens don't fit: the context holds {context_length}, and the prompt takes {prompt_length} "
            f"of them; ask for at most {room}."
        )
    return wanted

"""Text in, text out: encode a prompt, sample, and decode piece by piece without breaking a character in two."""

import codecs
from collections.abc import Iterator, Sequence

import tiktoken
import torch
from torch import Tensor

from gpt_lightning.data.tokenizer import END_OF_TEXT, encode_bytes
from gpt_lightning.errors import UserError
from gpt_lightning.generation import generate
from gpt_lightning.model import GPT


class TextStream:
    """Tokens of one sequence in, pieces of text out: whole characters, and nothing of what may become a stop string.

    Bytes that are no UTF-8 come out as �. `ended` once a stop string or the end-of-text token has come.
    """

    def __init__(self, encoding: tiktoken.Encoding, stop: Sequence[str] = ()) -> None:
        self.encoding, self.stop, self.ended = encoding, tuple(stop), False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def feed(self, token: int) -> str:
        """The text that a token makes certain."""
        if self.ended:
            return ""
        if self.encoding.is_special_token(token) and self.encoding.decode([token]) == END_OF_TEXT:
            return self.close()
        try:
            piece = self.encoding.decode_single_token_bytes(token)
        except KeyError:  # an id that no token has; an untrained network may write it
            piece = b""
        return self._pass_on(self._decoder.decode(piece))

    def close(self) -> str:
        """What was held back, where nothing more comes."""
        if self.ended:
            return ""
        text = self._pass_on(self._decoder.decode(b"", final=True))
        self.ended, held, self._held = True, self._held, ""
        return text + held

    def _pass_on(self, text: str) -> str:
        text = self._held + text
        found = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.ended, self._held = True, ""
            return text[: min(found)]
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        starts = range(max(0, len(text) - longest), len(text))
        cut = next((at for at in starts if any(stop.startswith(text[at:]) for stop in self.stop)), len(text))
        self._held = text[cut:]
        return text[:cut]


def generate_text(gpt: GPT, encoding: tiktoken.Encoding, prompt: str, *arguments, **options) -> Iterator[str]:
    """As `generate_texts`, for one continuation: yields a piece for each token, and one more at the end."""
    for (piece,) in generate_texts(gpt, encoding, prompt, 1, *arguments, **options):
        yield piece


def generate_texts(
    gpt: GPT,
    encoding: tiktoken.Encoding,
    prompt: str,
    samples: int,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 1337,
    stop: Sequence[str] = (),
    **options,
) -> Iterator[list[str]]:
    """Yield continuations of `prompt` as they are sampled: a piece of each for every token, whole characters at a time,
    and once more, at the end, what was held back until then.

    A continuation ends after `max_new_tokens`, before the first stop string, or with the network's end-of-text token.

    Args:
        gpt: The network, in eval mode.
        encoding: The tokenizer that it was trained with.
        prompt: Where to go on from; at least one token.
        samples: How many continuations; the prompt goes through the network once.
        max_new_tokens: How much to add; None means up to the end of the context, or, sliding, a context's length.
        temperature: 0 takes the likeliest token, 1 samples as trained.
        top_k: Sample among the k likeliest tokens only.
        seed: The same seed gives the same text.
        stop: Strings that end the text, and are not part of it.
        options: top_p, min_p, repetition_penalty, slide and compiled, as for `generation.generate`.

    Raises:
        UserError: the prompt is empty or no text, or prompt and continuation don't fit into the context.
    """
    streams = [TextStream(encoding, stop) for _ in range(samples)]
    options |= {"temperature": temperature, "top_k": top_k, "samples": samples}
    for token_B in _tokens(gpt, encoding, prompt, max_new_tokens, seed, options):
        yield [stream.feed(token) for stream, token in zip(streams, token_B.tolist(), strict=True)]
        if all(stream.ended for stream in streams):
            break
    yield [stream.close() for stream in streams]


def _tokens(
    gpt: GPT,
    encoding: tiktoken.Encoding,
    prompt: str,
    max_new_tokens: int | None,
    seed: int,
    options: dict,
) -> Iterator[Tensor]:
    """Tokens (samples,) of each step, once the prompt is found to be one."""
    try:
        tokens = encode_bytes(encoding, prompt.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise UserError(
            f"The prompt holds {prompt[error.start]!a}, which is half a character; leave it out."
        ) from error
    context_length = gpt.config.context_length
    if len(tokens) == 0:
        raise UserError("The prompt is empty; give at least one character to go on from.")
    room = context_length - len(tokens)
    if options.get("slide"):
        max_new_tokens = context_length if max_new_tokens is None else max_new_tokens
    elif room < 1:
        raise UserError(
            f"The prompt is {len(tokens)} tokens long, but the network's context holds {context_length}, the "
            "continuation included; shorten the prompt."
        )
    elif max_new_tokens is not None and max_new_tokens > room:
        raise UserError(
            f"{max_new_tokens} new tokens don't fit: the context holds {context_length}, and the prompt takes "
            f"{len(tokens)} of them; ask for at most {room}."
        )
    prompt_BT = torch.tensor(tokens.astype("int64"), device=gpt.head.weight.device)[None]
    generator = torch.Generator().manual_seed(seed)
    new = room if max_new_tokens is None else max_new_tokens
    yield from generate(gpt, prompt_BT, new, generator=generator, n_ids=encoding.n_vocab, **options)

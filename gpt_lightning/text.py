"""Text in, text out: encode a prompt, sample, and decode piece by piece without breaking a character in two."""

import codecs
from collections.abc import Iterator

import tiktoken
import torch

from gpt_lightning.data.tokenizer import encode_bytes
from gpt_lightning.errors import UserError
from gpt_lightning.generation import generate
from gpt_lightning.model import GPT


def generate_text(
    gpt: GPT,
    encoding: tiktoken.Encoding,
    prompt: str,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 1337,
    compiled: bool = False,
) -> Iterator[str]:
    """Yield the continuation of `prompt` as it is sampled, whole characters at a time; bytes that are no UTF-8 show as
    �.

    Args:
        gpt: The network, in eval mode.
        encoding: The tokenizer that it was trained with.
        prompt: Where to go on from; at least one token.
        max_new_tokens: How much to add; None means up to the end of the context.
        temperature: 0 takes the likeliest token, 1 samples as trained.
        top_k: Sample among the k likeliest tokens only.
        seed: The same seed gives the same text.
        compiled: As for `generate`.

    Raises:
        UserError: the prompt is empty or no text, or prompt and continuation don't fit into the context.
    """
    try:
        tokens = encode_bytes(encoding, prompt.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise UserError(
            f"The prompt holds {prompt[error.start]!a}, which is half a character; leave it out."
        ) from error
    context_length = gpt.config.context_length
    if len(tokens) == 0:
        raise UserError("The prompt is empty; give at least one character to go on from.")
    if len(tokens) >= context_length:
        raise UserError(
            f"The prompt is {len(tokens)} tokens long, but the network's context holds {context_length}, the "
            "continuation included; shorten the prompt."
        )
    room = context_length - len(tokens)
    if max_new_tokens is not None and max_new_tokens > room:
        raise UserError(
            f"{max_new_tokens} new tokens don't fit: the context holds {context_length}, and the prompt takes "
            f"{len(tokens)} of them; ask for at most {room}."
        )
    prompt_BT = torch.tensor(tokens.astype("int64"), device=gpt.head.weight.device)[None]
    generator = torch.Generator().manual_seed(seed)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    if max_new_tokens is None:
        max_new_tokens = room
    options = (temperature, top_k, generator, encoding.n_vocab, compiled)
    for token_B in generate(gpt, prompt_BT, max_new_tokens, *options):
        try:
            piece = encoding.decode_single_token_bytes(int(token_B))
        except KeyError:  # an id that no token has; an untrained network may write it
            piece = b""
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)

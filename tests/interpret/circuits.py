"""A network whose every head does one known thing, built by hand: Olsson et al.'s (2022) induction circuit.

Shapes: T tokens, C model width, D head width, V vocabulary.
"""

import math

import torch
from torch import Tensor

from gpt_lightning.model import GPT, GPTConfig

BOS = 0
CONSTANT = 300.0  # what one dim of the residual stream always holds, and another its negative
SHARP = 30.0  # the logit of the key to look at; all others have 0, so that e⁻³⁰ of the mass is left for each
SURE = 15.0  # the logit of the predicted token


def induction_circuit(period: int = 31, vocab_size: int = 64) -> GPT:
    """Predicts the second half of `repeated_sequences` with certainty, and needs two of its four heads for that.

    - Layer 0 head 0, the previous-token head, writes the token before each position into a subspace of its own.
    - Layer 0 head 1, a sink, puts all its mass on position 0.
    - Layer 1 head 0, the induction head, looks for positions whose previous token is its query's, and writes the token
      there where the logits read. Without a match all scores are 0, and it mixes all tokens.
    - Layer 1 head 1 is uniform. What it and the sink write goes into a subspace that nothing reads.

    Layer norm does nothing here. It divides by a standard deviation that two constant dims make up to 1 in 8,000, and
    that the norms' weights multiply back. The mean that it subtracts is 0, since whatever is written as a one-hot
    vector is written with a −1 into one more dim, the balance.
    """
    T, V = 1 + 2 * period, vocab_size
    widths = {"token": V, "position": T, "previous": V, "output": V, "unread": V, "balance": 1, "constants": 2}
    C = sum(widths.values()) + sum(widths.values()) % 2
    gpt = GPT(GPTConfig(2, 2, C, T, V, tie_weights=False)).eval()
    starts = torch.tensor([0, *widths.values()]).cumsum(0).tolist()
    at = {name: slice(start, start + width) for (name, width), start in zip(widths.items(), starts, strict=False)}
    balance = at["balance"].start
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.zero_()
        for norm in (*(block.norm1 for block in gpt.blocks), gpt.norm):
            norm.weight.fill_(CONSTANT * math.sqrt(2 / C))
        tokens_VC, positions_TC = gpt.token_embedding.weight, gpt.position_embedding.weight
        tokens_VC[:, at["token"]], tokens_VC[:, balance] = torch.eye(V), -1
        positions_TC[:, at["position"]], positions_TC[:, balance] = torch.eye(T), -1
        positions_TC[:, at["constants"]] = torch.tensor([CONSTANT, -CONSTANT])
        gpt.head.weight[:, at["output"]] = SURE * torch.eye(V)

        q, k = _queries_and_keys(gpt, layer=0)
        q[0, 0 : T - 1, at["position"]] = _logit(C) * torch.eye(T)[1:]  # position t asks for t − 1
        k[0, 0:T, at["position"]] = torch.eye(T)
        gpt.blocks[0].attention.qkv.bias.view(3, 2, C // 2)[0, 1, 0] = _logit(C)  # all ask the same,
        k[1, 0, at["position"].start] = 1  # which only position 0 is
        q, k = _queries_and_keys(gpt, layer=1)
        q[0, 0:V, at["token"]] = _logit(C) * torch.eye(V)
        k[0, 0:V, at["previous"]] = torch.eye(V)
        for layer, written in enumerate((("previous", "unread"), ("output", "unread"))):
            attention = gpt.blocks[layer].attention
            for head, subspace in enumerate(written):
                attention.qkv.weight.view(3, 2, C // 2, C)[2, head, 0:V, at["token"]] = torch.eye(V)
                attention.output.weight.view(C, 2, C // 2)[at[subspace], head, 0:V] = torch.eye(V)
                attention.output.weight.view(C, 2, C // 2)[balance, head, 0:V] = -1
    return gpt


def repeated_sequences(n: int, period: int = 31, vocab_size: int = 64, seed: int = 0) -> Tensor:
    """BOS, `period` < `vocab_size` distinct random tokens, and these again: (n, 1 + 2·period) int64.

    From index period + 2 on, each is predictable: it followed its predecessor before.
    """
    generator = torch.Generator().manual_seed(seed)
    half = torch.stack([1 + torch.randperm(vocab_size - 1, generator=generator)[:period] for _ in range(n)])
    return torch.cat((torch.full((n, 1), BOS), half, half), dim=1)


def _queries_and_keys(gpt: GPT, layer: int) -> tuple[Tensor, Tensor]:
    """The matrices that read the residual stream, (heads, D, C) each, to write into."""
    C = gpt.config.d_model
    q, k, _ = gpt.blocks[layer].attention.qkv.weight.view(3, 2, C // 2, C)
    return q, k


def _logit(C: int) -> float:
    """What makes a match score SHARP: attention divides by the root of the head's width."""
    return SHARP * math.sqrt(C // 2)

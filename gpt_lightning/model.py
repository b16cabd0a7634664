"""The network, by hand: GPT-2's pre-norm decoder, read top to bottom.

It knows nothing of training, Lightning, callbacks or plots. Sizes and options are the fields of `GPTConfig`; each
option picks a small module once, in a constructor, so that `forward` reads as plain GPT-2.

Shapes: B batch, T tokens, S tokens seen so far (cache included), C = d_model, H heads, D = C / H, V vocabulary.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

from gpt_lightning.kv_cache import KVCache, LayerCache, StaticCache, StaticLayerCache
from gpt_lightning.ranges import NonNegativeInt, PositiveInt, ShareBelowOne

VOCABULARY_MULTIPLE = 64  # GPUs multiply matrices of such sizes faster; nanoGPT rounds up to it too
LARGEST_SIZE = 2**24  # far above any network, and small enough for a matrix's size in bytes to fit into 64 bits


@dataclass
class GPTConfig:
    """Sizes and options of the network; the defaults are GPT-2 small (124,439,808 parameters).

    Args:
        n_layer: Number of blocks.
        n_head: Attention heads per block; divides d_model.
        d_model: Width of the residual stream.
        context_length: Longest sequence, in tokens.
        vocab_size: Number of token ids. For train.py, 0 means as many as the tokenizer has, rounded up to a multiple
            of 64, which gives GPT-2 small 124,475,904 parameters.
        dropout: Probability of dropping embeddings, attention weights and sublayer outputs.
        bias: Whether linear layers and layer norms have a bias, as in GPT-2.
        tie_weights: Whether the head shares the token embedding's matrix, as in GPT-2.
        position: "learned" adds a trained vector per position, as in GPT-2; "rope" rotates queries and keys instead.
        norm: "layer" norm, as in GPT-2, or "rms", which neither centres nor shifts (Zhang & Sennrich 2019).
        qk_norm: Whether queries and keys are RMS-normalised before positions, so that attention logits cannot grow
            (Dehghani et al. 2023, here without trained scales; logits are at most √(d_model / n_head)).
        activation: The MLP's: "gelu" in its tanh form, as in GPT-2, "gelu_erf", as in nanoGPT, or "relu_squared" (So
            et al. 2021).
        zero_init: Whether the projections that write to the residual stream start at 0, so that every block starts as
            the identity (as in Yang et al. 2022), rather than as in GPT-2.
    """

    n_layer: PositiveInt = 12
    n_head: PositiveInt = 12
    d_model: PositiveInt = 768
    context_length: PositiveInt = 1024
    vocab_size: NonNegativeInt = 50257
    dropout: ShareBelowOne = 0.0
    bias: bool = True
    tie_weights: bool = True
    position: Literal["learned", "rope"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    qk_norm: bool = False
    activation: Literal["gelu", "gelu_erf", "relu_squared"] = "gelu"
    zero_init: bool = False

    def __post_init__(self) -> None:
        """Report every impossible field at once (ValueError)."""
        kinds = {field.name: type(field.default) for field in fields(self) if type(field.default) in (int, bool)}
        wrong = [name for name, kind in kinds.items() if type(getattr(self, name)) is not kind]
        if wrong:  # a file may hold such values; they would fail later, or pass for others, as True does for 1
            given = "; ".join(f"{name} is {getattr(self, name)!r}" for name in wrong)
            raise ValueError(f"{given}: sizes must be whole numbers, options true or false")
        problems = [
            f"{name} is {getattr(self, name)} but must be from 1 to {LARGEST_SIZE:,}"
            for name, kind in kinds.items()
            if kind is int and not 1 <= getattr(self, name) <= LARGEST_SIZE
        ]
        if self.n_head >= 1 and self.d_model % self.n_head:
            problems.append(f"d_model ({self.d_model}) must be a multiple of n_head ({self.n_head})")
        elif self.position == "rope" and self.n_head >= 1 and (self.d_model // self.n_head) % 2:
            problems.append(f"rope needs an even head width, but d_model / n_head is {self.d_model // self.n_head}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout} but must be at least 0 and below 1")
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(field.type)
            if get_origin(field.type) is Literal and value not in allowed:
                problems.append(f"{field.name} is {value!r} but must be {' or '.join(map(repr, allowed))}")
        if problems:
            raise ValueError("; ".join(problems))


def padded_vocabulary(n_ids: int) -> int:
    """`n_ids` rounded up to a multiple of 64; the additional ids stand for no token and are never sampled.

    >>> padded_vocabulary(50257), padded_vocabulary(256)
    (50304, 256)
    """
    return math.ceil(n_ids / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


class Attend(nn.Module):
    """Mix values by causal attention. The one attention call, and the one place where interpretability looks.

    It has no parameters. Its inputs are q, k, v after positions, all that a forward hook needs to recompute the
    attention weights, which are never materialised here.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, visible_1S: Tensor | None = None) -> Tensor:
        if visible_1S is not None:  # one query and every slot of a cache
            return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=visible_1S)
        T, S = q_BHTD.size(-2), k_BHSD.size(-2)
        dropout_p = self.dropout if self.training else 0.0
        # Queries are the last T of S positions. One query sees every key; T = S is plain causal attention; only a
        # prompt that continues a cache needs a mask aligned to the last key.
        mask = causal_lower_right(T, S) if 1 < T < S else None
        return F.scaled_dot_product_attention(
            q_BHTD, k_BHSD, v_BHSD, attn_mask=mask, dropout_p=dropout_p, is_causal=T == S and T > 1
        )


class RotaryPositions(nn.Module):
    """Rotate pairs of channels by an angle proportional to the position (RoPE; Su et al. 2021; GPT-NeoX's layout)."""

    def __init__(self, head_width: int, context_length: int, base: float = 10_000.0) -> None:
        super().__init__()
        frequencies = base ** -(torch.arange(0, head_width, 2).float() / head_width)
        angles = torch.outer(torch.arange(context_length).float(), frequencies)
        # Not saved: they follow from the config. Autocast leaves them in float32, unlike casting the network.
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1), persistent=False)
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), -1), persistent=False)

    def forward(self, x_BHTD: Tensor, positions: slice | Tensor) -> Tensor:
        x = x_BHTD.to(torch.promote_types(x_BHTD.dtype, torch.float32))  # whatever autocast made of it
        # Channel i forms a pair with i + D/2: rolled by half, each meets its partner.
        partner = x.roll(x.size(-1) // 2, -1)
        return torch.addcmul(x * self.cos[positions], partner, self.sin[positions]).type_as(x_BHTD)


def normalisation(config: GPTConfig) -> nn.Module:
    """The norm in front of each sublayer and of the head."""
    if config.norm == "rms":
        return nn.RMSNorm(config.d_model, eps=1e-6)
    return nn.LayerNorm(config.d_model, bias=config.bias)


class CausalSelfAttention(nn.Module):
    """Multi-head attention: project to Q, K, V, mix the values, project back."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=config.bias)
        head_width = config.d_model // config.n_head
        self.rotary = RotaryPositions(head_width, config.context_length) if config.position == "rope" else None
        self.qk_norm = nn.RMSNorm(head_width, eps=1e-6, elementwise_affine=False) if config.qk_norm else None
        self.attend = Attend(config.dropout)
        self.output = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, cache: LayerCache | StaticLayerCache | None = None) -> Tensor:
        B, T, C = x_BTC.shape
        qkv = self.qkv(x_BTC).view(B, T, 3, self.n_head, C // self.n_head)
        qk, v = qkv.permute(2, 0, 3, 1, 4).split([2, 1])
        # Queries and keys go together: half as many operations, whose overhead shows in a small network.
        if self.qk_norm is not None:
            qk = self.qk_norm(qk)
        if self.rotary is not None:
            qk = self.rotary(qk, slice(T) if cache is None else cache.positions(T))
        (q, k), (v,) = qk, v
        visible = None
        if cache is not None:
            (k, v), visible = cache.append(k, v), cache.visible
        mixed_BTC = self.attend(q, k, v, visible_1S=visible).transpose(1, 2).reshape(B, T, C)
        return self.dropout(self.output(mixed_BTC))


class ReLUSquared(nn.Module):
    """max(x, 0)² (So et al. 2021, "Primer")."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


ACTIVATIONS = {"gelu": lambda: nn.GELU(approximate="tanh"), "gelu_erf": nn.GELU, "relu_squared": ReLUSquared}


class MLP(nn.Module):
    """Widen four times, GELU or squared ReLU, narrow again."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, 4 * config.d_model, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]()
        self.down = nn.Linear(4 * config.d_model, config.d_model, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.dropout(self.down(self.activation(self.up(x_BTC))))


class Block(nn.Module):
    """One layer: attention, then MLP, each normalised on the way in and added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1 = normalisation(config)
        self.attention = CausalSelfAttention(config)
        self.norm2 = normalisation(config)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor, cache: LayerCache | StaticLayerCache | None = None) -> Tensor:
        x_BTC = x_BTC + self.attention(self.norm1(x_BTC), cache)
        return x_BTC + self.mlp(self.norm2(x_BTC))


class GPT(nn.Module):
    """The network: tokens in, logits out.

    >>> gpt = GPT(GPTConfig(n_layer=2, n_head=2, d_model=16, context_length=8, vocab_size=10))
    >>> gpt(torch.zeros(1, 4, dtype=torch.long)).shape
    torch.Size([1, 4, 10])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.position == "learned"
        self.position_embedding = nn.Embedding(config.context_length, config.d_model) if learned else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = normalisation(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.initialise()
        if config.tie_weights:
            self.head.weight = self.token_embedding.weight

    @torch.no_grad()
    def initialise(self) -> None:
        """GPT-2's initialisation: normal with std 0.02, biases zero, and the 2·n_layer projections that write to the
        residual stream scaled by 1/√(2·n_layer) (Radford et al. 2019, section 2.3)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            for projection in (block.attention.output, block.mlp.down):
                projection.weight.mul_(0 if self.config.zero_init else 1 / math.sqrt(2 * self.config.n_layer))

    def forward(self, tokens_BT: Tensor, cache: KVCache | StaticCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens_BT` (B, T) int64.

        With a cache, `tokens_BT` continues what the cache has seen, and is added to it.

        Raises:
            ValueError: more tokens, the cached ones included, than the context holds.
        """
        return self.head(self.hidden_states(tokens_BT, cache))

    def hidden_states(self, tokens_BT: Tensor, cache: KVCache | StaticCache | None = None) -> Tensor:
        """What the head reads: the residual stream after the last block and the final norm, (B, T, C)."""
        T, context_length = tokens_BT.size(1), self.config.context_length
        if cache is None and context_length < T:
            raise ValueError(f"{T} tokens do not fit into a context of {context_length} tokens")
        positions = slice(T) if cache is None else cache.positions(T)
        x_BTC = self.token_embedding(tokens_BT)
        if self.position_embedding is not None:
            x_BTC = x_BTC + self.position_embedding.weight[positions]
        x_BTC = self.dropout(x_BTC)
        for layer, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, None if cache is None else cache.layer(layer))
        if cache is not None:
            cache.advance(T)
        return self.norm(x_BTC)

    def parameter_count(self) -> int:
        """Number of trained parameters; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self) -> int:
        """Floating-point operations of forward and backward per token: 6 per weight that multiplies, plus attention's
        12·n_layer·d_model·T (PaLM, Chowdhery et al. 2022, appendix B; the causal half is counted, as is customary)."""
        # Embeddings are looked up, not multiplied. A tied matrix multiplies as the head, so that the sum over blocks
        # and head is the same for tied and untied weights.
        multiplied = sum(p.numel() for p in self.blocks.parameters() if p.dim() == 2) + self.head.weight.numel()
        c = self.config
        return 6 * multiplied + 12 * c.n_layer * c.d_model * c.context_length

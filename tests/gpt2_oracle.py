"""GPT-2 from `transformers`, with random weights, and the same weights in our network: the oracle of several tests."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt_lightning.model import GPT, GPTConfig


def random_huggingface_gpt2(
    n_layer: int, n_head: int, d_model: int, context_length: int, vocab_size: int, std: float = 0.2
) -> GPT2LMHeadModel:
    """A GPT-2 whose weights are all random (biases and norms too), so that a forgotten one shows."""
    config = GPT2Config(
        n_layer=n_layer,
        n_head=n_head,
        n_embd=d_model,
        n_positions=context_length,
        vocab_size=vocab_size,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * std)
    return model


def copy_from_huggingface(theirs: GPT2LMHeadModel) -> GPT:
    """Our network with their weights. Their Conv1D keeps matrices transposed."""
    c = theirs.config
    ours = GPT(
        GPTConfig(
            n_layer=c.n_layer,
            n_head=c.n_head,
            d_model=c.n_embd,
            context_length=c.n_positions,
            vocab_size=c.vocab_size,
        )
    ).eval()
    names = {
        "transformer.wte": "token_embedding",
        "transformer.wpe": "position_embedding",
        "transformer.ln_f": "norm",
        "lm_head": "head",
    }
    in_block = {
        "ln_1": "norm1",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.output",
        "ln_2": "norm2",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }
    for layer in range(c.n_layer):
        names |= {f"transformer.h.{layer}.{their}": f"blocks.{layer}.{our}" for their, our in in_block.items()}
    state = {}
    for name, tensor in theirs.state_dict().items():
        module, _, kind = name.rpartition(".")
        transposed = ".c_" in name and kind == "weight"
        state[f"{names[module]}.{kind}"] = tensor.T if transposed else tensor
    ours.load_state_dict(state)
    return ours

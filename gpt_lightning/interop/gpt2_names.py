"""GPT-2 in other projects: the names of its sizes and weights, which all follow OpenAI's, and its vocabulary sizes."""

from gpt_lightning.data.tokenizer import GPT2_VOCABULARY_SIZE
from gpt_lightning.model import padded_vocabulary

VOCABULARY_SIZES = (GPT2_VOCABULARY_SIZE, padded_vocabulary(GPT2_VOCABULARY_SIZE))  # as published, and rounded up
SIZES = {"n_layer": "n_layer", "n_head": "n_head", "d_model": "n_embd", "vocab_size": "vocab_size"}
OUTSIDE_BLOCKS = {"token_embedding": "wte", "position_embedding": "wpe", "norm": "ln_f"}
IN_BLOCKS = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def their_name(ours: str) -> str:
    """Their name of one of our weights.

    >>> their_name("blocks.3.mlp.up.bias")
    'transformer.h.3.mlp.c_fc.bias'
    """
    module, kind = ours.rsplit(".", 1)
    if module == "head":
        return f"lm_head.{kind}"
    if not module.startswith("blocks."):
        return f"transformer.{OUTSIDE_BLOCKS[module]}.{kind}"
    _, layer, part = module.split(".", 2)
    return f"transformer.h.{layer}.{IN_BLOCKS[part]}.{kind}"

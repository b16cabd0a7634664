"""GPT-2's sizes and weights under the names that its other implementations give them, which all follow OpenAI's."""

SIZES = {"n_layer": "n_layer", "n_head": "n_head", "d_model": "n_embd", "vocab_size": "vocab_size"}
OUTSIDE_BLOCKS = {
    "token_embedding": "wte",
    "position_embedding": "wpe",
    "norm": "ln_f",
}
IN_BLOCKS = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def their_name(ours: str) -> str:
    """The name of one of our network's weights in theirs.

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

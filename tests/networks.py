"""The kinds of network that everything has to work with, as options of GPTConfig."""

VARIANTS = {
    "gpt2": {},
    "rope": {"position": "rope"},
    "modern": {
        "position": "rope",
        "norm": "rms",
        "qk_norm": True,
        "activation": "relu_squared",
        "tie_weights": False,
        "bias": False,
    },
}

"""Hugging Face's GPT-2: a directory with config.json and weights in safetensors, in one file or several."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import tiktoken
import torch
from torch import Tensor

from gpt_lightning.data.tokenizer import END_OF_TEXT, GPT2_VOCABULARY_SIZE
from gpt_lightning.errors import UserError
from gpt_lightning.interop.gpt2_names import IN_BLOCKS, SIZES, VOCABULARY_SIZES, their_name
from gpt_lightning.interop.network_files import (
    CONFIG,
    fill,
    network_config,
    read_json,
    read_weights,
    stored_shapes,
    write_network,
)
from gpt_lightning.interop.tokenizer import save_tokenizer
from gpt_lightning.model import GPT, GPTConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
THEIR_SIZES = SIZES | {"context_length": "n_positions"}
# Their linear layers ("Conv1D") store weights as (in, out), ours as (out, in).
TRANSPOSED = tuple(f"{name}.weight" for name in IN_BLOCKS.values() if "c_" in name)
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_erf"}  # theirs → ours
AS_GPT2 = {  # what can be read; all keys but the first may be missing and then mean the first value
    "model_type": ("gpt2",),
    "activation_function": tuple(ACTIVATIONS),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
MASKS = (".attn.bias", ".attn.masked_bias")  # causal masks, which old files hold among the weights


def load_huggingface(directory: str | Path) -> GPT:
    """The network of a Hugging Face GPT-2 checkpoint, in evaluation mode, float32, on the CPU.

    Reads `model.safetensors`, or the files that `model.safetensors.index.json` lists, beside `config.json`. Dropout is
    the checkpoint's `resid_pdrop`.

    Raises:
        UserError: files are missing or damaged, the architecture is another, or the weights don't fit the sizes.
    """
    directory = Path(directory)
    config = _network_config(read_json(directory / CONFIG), directory / CONFIG)
    return fill(config, read_weights(_weight_files(directory), _full_name), directory, their_name, TRANSPOSED)


def save_huggingface(model: GPT, directory: str | Path, encoding: tiktoken.Encoding | None = None) -> list[Path]:
    """Write a network in the format that `transformers.AutoModelForCausalLM.from_pretrained(directory)` reads.

    Args:
        model: The network.
        directory: Where to write; it is made if it is missing.
        encoding: Its tokenizer, which says which id ends a text, and is written for `load_checkpoint` to find
            (`transformers` ignores it). Without one, that id is GPT-2's if the vocabulary has GPT-2's size, rounded up
            or not.

    Returns:
        The files.

    Raises:
        UserError: the network has an option that GPT-2 lacks, such as rotary positions.
        OSError: the files can't be written.
    """
    directory, c = Path(directory), model.config
    weights = _their_weights(model)
    if encoding is not None:
        end_of_text = encoding.encode_single_token(END_OF_TEXT) if END_OF_TEXT in encoding.special_tokens_set else None
    else:
        end_of_text = GPT2_VOCABULARY_SIZE - 1 if c.vocab_size in VOCABULARY_SIZES else None
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(c, ours) for ours, theirs in THEIR_SIZES.items()},
        "n_ctx": c.context_length,
        "activation_function": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == c.activation),
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": c.tie_weights,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), c.dropout),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), end_of_text),
        "torch_dtype": "float32",
    }
    files = write_network(directory, config, WEIGHTS, weights)
    return files if encoding is None else [*files, save_tokenizer(encoding, directory)]


def _their_weights(gpt: GPT) -> dict[str, Tensor]:
    """The weights under their names, with zeros for biases that the network lacks; UserError as `save_huggingface`."""
    config = gpt.config
    gpt2 = {"position": ["learned"], "norm": ["layer"], "qk_norm": [False], "activation": ["gelu", "gelu_erf"]}
    if lacking := [f"{name}: {getattr(config, name)}" for name in gpt2 if getattr(config, name) not in gpt2[name]]:
        raise UserError(f"GPT-2 has no {', no '.join(lacking)}: such a network cannot be written in its format.")
    ours, written = gpt.state_dict(), {}
    for name, shape in stored_shapes(replace(config, bias=True)).items():
        weight, theirs = ours[name] if name in ours else torch.zeros(shape), their_name(name)
        written[theirs] = weight.mT if theirs.endswith(TRANSPOSED) else weight
    return written


def _network_config(config: dict[str, Any], path: Path) -> GPTConfig:
    for key, allowed in AS_GPT2.items():
        if config.get(key, allowed[0] if key != "model_type" else None) not in allowed:
            raise UserError(
                f"{path} says {key}: {config.get(key)!r}, which is not GPT-2's; only {allowed[0]!r} can be read."
            )
    ours = network_config(
        config,
        THEIR_SIZES,
        path,
        dropout=config.get("resid_pdrop", 0.1),
        tie_weights=config.get("tie_word_embeddings", True),
        activation=ACTIVATIONS[config.get("activation_function", "gelu_new")],
    )
    if config.get("n_inner") not in (None, 4 * ours.d_model):
        raise UserError(f"{path} says n_inner: {config['n_inner']!r}, but only 4 × n_embd can be read.")
    return ours


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if not (directory / INDEX).is_file():
        raise UserError(f"There is no {WEIGHTS} in {directory}; other formats can run code and are not read.")
    files = read_json(directory / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) and Path(f).name == f for f in files.values()):
        raise UserError(f"{directory / INDEX} has no weight_map from weights to files beside it.")
    return [directory / name for name in sorted(set(files.values()))]


def _full_name(name: str) -> str | None:
    """A weight's name with "transformer." in front, which the first conversions left out; None for causal masks."""
    if name.endswith(MASKS):
        return None
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"

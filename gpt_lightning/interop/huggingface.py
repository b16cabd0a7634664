"""Hugging Face's GPT-2: a directory with config.json and weights in safetensors, in one file or several."""

import json
from pathlib import Path
from typing import Any

import tiktoken
from safetensors.torch import save

from gpt_lightning.data.tokenizer import END_OF_TEXT, GPT2_VOCABULARY_SIZE
from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file
from gpt_lightning.interop.gpt2_names import fill, weights_by_their_names
from gpt_lightning.interop.json_files import read_json
from gpt_lightning.interop.tokenizer import save_tokenizer
from gpt_lightning.interop.weights import WeightFiles
from gpt_lightning.model import GPT, GPTConfig, padded_vocabulary

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# What GPT-2 checkpoints have under these keys, where they have them.
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_erf"}
AS_GPT2 = {
    "model_type": ("gpt2",),
    "activation_function": tuple(ACTIVATIONS),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
MASKS = (".attn.bias", ".attn.masked_bias")  # causal masks that old files hold among the weights


def load_huggingface(directory: str | Path) -> GPT:
    """The network of a Hugging Face GPT-2 checkpoint, in evaluation mode, float32, on the CPU.

    Reads `model.safetensors`, or the files that `model.safetensors.index.json` lists, beside `config.json`. Dropout is
    the checkpoint's `resid_pdrop`.

    Raises:
        UserError: files are missing or damaged, it is another architecture, or the weights don't fit the sizes.
    """
    directory = Path(directory)
    config = _network_config(read_json(directory / CONFIG), directory / CONFIG)
    weights = WeightFiles(_weight_files(directory), _full_name)
    return fill(config, weights.shapes, weights.read, transposed=True, what=str(directory))


def save_huggingface(model: GPT, directory: str | Path, encoding: tiktoken.Encoding | None = None) -> list[Path]:
    """Write a network in the format that `transformers.AutoModelForCausalLM.from_pretrained(directory)` reads.

    Args:
        model: The network.
        directory: Where to write; it is made if it is missing.
        encoding: Its tokenizer, which is written for `load_checkpoint` to find (`transformers` does not look at it),
            and says which id ends a text. Without, that is GPT-2's if the vocabulary has GPT-2's size, rounded up or
            not.

    Returns:
        The files.

    Raises:
        UserError: the network has what GPT-2 has not, e.g. rotary positions.
        OSError: they can't be written.
    """
    directory, c = Path(directory), model.config
    weights = weights_by_their_names(model, transposed=True)
    if encoding is not None:
        end_of_text = encoding.encode_single_token(END_OF_TEXT) if END_OF_TEXT in encoding.special_tokens_set else None
    else:
        is_gpt2s = c.vocab_size in (GPT2_VOCABULARY_SIZE, padded_vocabulary(GPT2_VOCABULARY_SIZE))
        end_of_text = GPT2_VOCABULARY_SIZE - 1 if is_gpt2s else None
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.d_model,
        "n_positions": c.context_length,
        "n_ctx": c.context_length,
        "vocab_size": c.vocab_size,
        "activation_function": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == c.activation),
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": c.tie_weights,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), c.dropout),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), end_of_text),
        "torch_dtype": "float32",
    }
    with atomic_file(directory / WEIGHTS) as file:
        file.write(save(weights, metadata={"format": "pt"}))
    with atomic_file(directory / CONFIG) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")
    files = [directory / CONFIG, directory / WEIGHTS]
    return files if encoding is None else [*files, save_tokenizer(encoding, directory)]


def _network_config(config: dict[str, Any], path: Path) -> GPTConfig:
    for key, allowed in AS_GPT2.items():
        if config.get(key, allowed[0] if key != "model_type" else None) not in allowed:
            raise UserError(
                f"{path} says {key}: {config.get(key)!r}, which is no GPT-2; only {allowed[0]!r} can be read."
            )
    try:
        found = GPTConfig(
            n_layer=config["n_layer"],
            n_head=config["n_head"],
            d_model=config["n_embd"],
            context_length=config["n_positions"],
            vocab_size=config["vocab_size"],
            dropout=config.get("resid_pdrop", 0.1),
            tie_weights=config.get("tie_word_embeddings", True),
            activation=ACTIVATIONS[config.get("activation_function", "gelu_new")],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} gives no sizes of a GPT-2: {error}.") from error
    if config.get("n_inner") not in (None, 4 * found.d_model):
        raise UserError(f"{path} says n_inner: {config['n_inner']!r}, but only 4 × n_embd can be read.")
    return found


def _weight_files(directory: Path) -> list[Path]:
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if not (directory / INDEX).is_file():
        raise UserError(
            f"There is no {WEIGHTS} in {directory}; other formats of weights can run code and are not read."
        )
    names = read_json(directory / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
        raise UserError(f"{directory / INDEX} has no weight_map from weights to files beside it.")
    return [directory / name for name in sorted(set(names.values()))]


def _full_name(name: str) -> str | None:
    """OpenAI's own conversion has no "transformer." in front; causal masks are no weights."""
    if name.endswith(MASKS):
        return None
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"

"""Checkpoints that travel: Hugging Face's GPT-2, nanoGPT's, and a plain directory of our own.

    python -m gpt_lightning.interop --checkpoint runs/…/last.ckpt --output DIRECTORY        for transformers
    python -m gpt_lightning.interop --checkpoint … --output DIRECTORY --format plain        any network

`analyze.py`, `generate.py` and `train.py fit --model.init_from` take such directories, and nanoGPT's ckpt.pt, wherever
they take a checkpoint.
"""

from gpt_lightning.interop.huggingface import load_huggingface, save_huggingface
from gpt_lightning.interop.nanogpt import load_nanogpt
from gpt_lightning.interop.plain import load_plain, save_plain

__all__ = ["load_huggingface", "load_nanogpt", "load_plain", "save_huggingface", "save_plain"]

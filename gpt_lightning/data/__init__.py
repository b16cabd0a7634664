"""Text in, batches of tokens out: corpora → tokenizer → token files (memory-mapped) → datamodule."""

from gpt_lightning.data.datamodule import TextDataModule

__all__ = ["TextDataModule"]

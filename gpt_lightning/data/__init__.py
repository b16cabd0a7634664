"""From text to batches of tokens: corpora → tokenizer → token files (memory-mapped) → datamodule.

Nothing is imported here, since generate.py needs only the tokenizer and Lightning takes seconds to import.
"""

"""Text in, batches of tokens out: corpora → tokenizer → token files (memory-mapped) → datamodule.

Nothing is imported here: generate.py needs the tokenizer only, and Lightning takes seconds to import.
"""

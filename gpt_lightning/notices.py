"""Notices to the user, printed once however many processes there are."""

import sys
from typing import TextIO

from lightning.pytorch.utilities.rank_zero import rank_zero_only


@rank_zero_only
def say(text: str, file: TextIO | None = None) -> None:
    """Print a line, by default to stderr, where the progress bars go. (train.py silences Lightning's own
    `rank_zero_info`.)"""
    print(text, file=file or sys.stderr, flush=True)

"""Notices to the user, once however many processes there are."""

import sys
from typing import TextIO

from lightning.pytorch.utilities.rank_zero import rank_zero_only


@rank_zero_only
def say(text: str, file: TextIO | None = None) -> None:
    """Print a line to a file, by default stderr, where the progress bars go.

    Lightning's `rank_zero_info` would not do: train.py silences it.
    """
    print(text, file=file or sys.stderr, flush=True)

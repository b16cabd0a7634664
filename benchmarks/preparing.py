"""Preparing a corpus larger than memory: peak memory, speed, and how fast the result opens.

    python -m benchmarks.preparing --text enwik8 --gigabytes 10            plain text
    python -m benchmarks.preparing --text enwik8 --gigabytes 2 --jsonl     records of 4,000 bytes

Writes a text of that size by repeating a smaller one, and runs the command that a user would.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from benchmarks.side_by_side import machine
from gpt_lightning.command_line import clear_errors
from gpt_lightning.data.batches.loader import BlockLoader
from gpt_lightning.data.text.corpora import find_corpus, read_corpus
from gpt_lightning.data.tokens.token_files import open_token_files
from gpt_lightning.errors import UserError

RECORD = 4000  # bytes of text
CONTEXT = 1024


def main() -> None:
    """Parse, write the text, prepare it, open it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="pydoc", help="what to repeat (default: Python's documentation)")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--jsonl", action="store_true", help="as JSON lines")
    parser.add_argument("--directory", type=Path, help="where there is room for twice as much (default: the system's)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        text = Path(name, "text.jsonl" if args.jsonl else "text.txt")
        size = write(args.text, int(args.gigabytes * 1e9), text)
        data = Path(name, "data")
        command = [
            "-m",
            "gpt_lightning.data.prepare",
            "--corpus",
            text,
            "--tokenizer",
            args.tokenizer,
            "--data_dir",
            data,
        ]
        start = time.perf_counter()
        process, peak = subprocess.Popen([sys.executable, *command]), 0
        while process.poll() is None:
            peak = most_memory(process.pid) or peak
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise UserError("the text could not be prepared")
        (directory,) = (path.parent for path in data.glob("tokens/*/index.json"))
        start = time.perf_counter()
        tokens = open_token_files(directory)["train"]
        next(iter(BlockLoader(tokens, CONTEXT, 16, seed=1337)))
        opened = time.perf_counter() - start
        print(f"{machine('cpu')}; {size / 1e9:.2f} GB of {text.suffix[1:]}, tokenizer {args.tokenizer}")
        print(f"prepared in {seconds:,.0f} s, {size / 1e6 / seconds:.1f} MB/s")
        print(f"memory      {peak / 1e6:,.0f} MB at the peak, all of the process")
        print(f"opened      {len(tokens):,} tokens in {opened:.2f} s, with the first batch")


def most_memory(pid: int) -> int:
    """The most resident memory that a process has had so far, in bytes; 0 if it has ended."""
    # Not wait()'s figure, which includes the time before the process became this program.
    try:
        (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, ValueError):
        return 0
    return int(line.split()[1]) * 1024


def write(spec: str, size: int, path: Path) -> int:
    """Write a corpus to a file, repeated until it has at least `size` bytes; return how many it has."""
    content = b"".join(block for _, block in read_corpus(find_corpus(spec, path.parent)))
    if path.suffix == ".jsonl":
        records = (content[start : start + RECORD].decode(errors="ignore") for start in range(0, len(content), RECORD))
        content = b"".join(json.dumps({"text": record}).encode() + b"\n" for record in records)
    with path.open("wb") as file, tqdm(total=size, unit="B", unit_scale=True, desc="writing the text") as bar:
        while file.tell() < size:
            file.write(content)
            bar.update(len(content))
    return path.stat().st_size


if __name__ == "__main__":
    with clear_errors():
        main()

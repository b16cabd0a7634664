"""Complete training runs side by side, as a user starts them: `train.py fit` of this project, and nanoGPT's train.py.

    python -m benchmarks.recipe --nanogpt ../nanoGPT --text tiny_shakespeare.txt

Tiny Shakespeare with 4×4×128, context 64, batch 12, as nanoGPT's README proposes for a laptop: nanoGPT, this project's
configs/shakespeare.yaml, and its fast overlay, each a process of its own, one after the other, `--rounds` times. At the
end every network is judged alike, on the full validation split. TensorBoard, checkpoints and the depth scan are on.
"""

import argparse
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import numpy as np
import torch
from tqdm import tqdm

from benchmarks import peers
from benchmarks.side_by_side import machine
from gpt_lightning.command_line import clear_errors
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from gpt_lightning.model import GPTConfig

REPO = Path(__file__).parent.parent
TRAIN_SHARE = 0.9  # of the text, for both projects
NANOGPT_OPTIONS = [
    "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=100",
    "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0",
    "--always_save_checkpoint=True",
]  # fmt: skip
PRINTED = re.compile(r"step +([\d,]+).* val loss ([\d.]+)")  # both print such a line at every validation


def main() -> None:
    """Parse, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="Tiny Shakespeare, as one file")
    parser.add_argument("--steps", type=int, default=2000, help="of the plain recipes")
    parser.add_argument("--fast_steps", type=int, nargs="+", default=[300], help="of the fast one, one run for each")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    peers.nanogpt(args.nanogpt)  # fails now if it is missing

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        text = args.text.read_text()
        fast = ["--config", str(REPO / "configs/shakespeare-fast.yaml")]
        print(machine("cpu"))
        print(f"{'':<24} {'seconds':>8} {'of nanoGPT':>11}   validation loss, whole split; seconds until loss printed")
        for number in range(args.rounds):
            directory = work / str(number)
            steps = [f"--max_iters={args.steps}", f"--lr_decay_iters={args.steps}"]
            prepare_nanogpt(args.nanogpt, directory / "nanogpt", text)
            command = [
                sys.executable,
                "train.py",
                *NANOGPT_OPTIONS,
                *steps,
                f"--eval_interval={max(1, args.steps // 8)}",
            ]
            theirs, losses = timed(command, directory / "nanogpt", "nanoGPT")
            report("nanoGPT", theirs, theirs, nanogpt_loss(args.nanogpt, directory / "nanogpt"), losses)
            runs = {"shakespeare": (args.steps, [])} | {f"shakespeare-fast {n}": (n, fast) for n in args.fast_steps}
            for label, (count, overlay) in runs.items():
                home = directory / label.replace(" ", "-")
                command = [
                    sys.executable,
                    str(REPO / "train.py"),
                    "fit",
                    "--config",
                    str(REPO / "configs/shakespeare.yaml"),
                ]
                command += [*overlay, f"--trainer.max_steps={count}", f"--data.corpus={args.text.resolve()}"]
                home.mkdir()
                seconds, losses = timed(command, home, label)
                (last,) = home.glob("runs/*/version_0/checkpoints/last.ckpt")
                report(label, seconds, theirs, our_loss(last, text), losses)


def prepare_nanogpt(checkout: Path, directory: Path, text: str) -> None:
    """Make a working copy, with the text as its data/shakespeare_char/prepare.py (which downloads) would write it."""
    data = directory / "data" / "shakespeare_char"
    data.mkdir(parents=True)
    for file in ("train.py", "model.py", "configurator.py", "config/train_shakespeare_char.py"):
        (directory / file).parent.mkdir(exist_ok=True)
        (directory / file).write_text((checkout / file).read_text())
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens, cut = np.array([numbers[character] for character in text], np.uint16), int(len(text) * TRAIN_SHARE)
    tokens[:cut].tofile(data / "train.bin")
    tokens[cut:].tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(numbers), "stoi": numbers}))


def timed(command: list[str], cwd: Path, label: str) -> tuple[float, list[tuple[float, float]]]:
    """Run a command; return its seconds, and each validation loss that it printed with the seconds until then."""
    losses, start = [], time.perf_counter()
    with (cwd / "stderr.txt").open("w") as errors, tqdm(desc=label, unit=" validations", leave=False) as bar:
        process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=errors, text=True)
        for line in process.stdout:
            if (match := PRINTED.search(line)) and match[1] != "0":
                losses.append((time.perf_counter() - start, float(match[2])))
                bar.update()
    seconds = time.perf_counter() - start
    if process.wait():
        raise RuntimeError(f"{label} failed: {(cwd / 'stderr.txt').read_text()[-2000:]}")
    return seconds, losses


@torch.no_grad()
def whole_split_loss(logits_of, tokens: torch.Tensor, context: int) -> float:
    """Mean next-token loss over all of `tokens` (N,), in blocks of the context."""
    blocks = tokens[: (len(tokens) - 1) // context * context + 1]
    inputs, targets = blocks[:-1].view(-1, context), blocks[1:].view(-1, context)
    total = 0.0
    for x, y in zip(inputs.split(64), targets.split(64), strict=True):
        total += torch.nn.functional.cross_entropy(logits_of(x, y).flatten(0, 1), y.flatten(), reduction="sum").item()
    return total / targets.numel()


def nanogpt_loss(checkout: Path, directory: Path) -> float:
    """The loss of the network that nanoGPT left."""
    checkpoint = torch.load(directory / "out-shakespeare-char" / "ckpt.pt", weights_only=True)
    sizes = checkpoint["model_args"]
    config = GPTConfig(
        sizes["n_layer"], sizes["n_head"], sizes["n_embd"], sizes["block_size"], sizes["vocab_size"], bias=sizes["bias"]
    )
    network = peers.nanogpt_network(checkout, config).eval()
    network.load_state_dict(checkpoint["model"])
    tokens = np.fromfile(directory / "data/shakespeare_char/val.bin", np.uint16).astype(np.int64)
    return whole_split_loss(lambda x, y: network(x, y)[0], torch.from_numpy(tokens), sizes["block_size"])


def our_loss(checkpoint: Path, text: str) -> float:
    """The loss of a run of this project, on the same text: its tokens are bytes, which are characters here."""
    network = load_checkpoint(checkpoint).model
    tokens = torch.tensor(list(text[int(len(text) * TRAIN_SHARE) :].encode()))
    return whole_split_loss(lambda x, _: network(x), tokens, network.config.context_length)


def report(label: str, seconds: float, theirs: float, loss: float, losses: list[tuple[float, float]]) -> None:
    """Print a line."""
    printed = ", ".join(f"{value:.3f} at {at:.0f}" for at, value in losses)
    print(f"{label:<24} {seconds:>8.1f} {seconds / theirs:>10.2f}×   {loss:.4f}; {printed}", flush=True)


if __name__ == "__main__":
    with clear_errors():
        main()

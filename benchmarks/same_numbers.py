"""Whether two checkouts train identically: every logged figure and every weight, bit for bit.

    git worktree add ../before main~1 && python -m benchmarks.same_numbers --before ../before

For a change that should change no number. Each recipe is trained by the `train.py` of both checkouts, with the same
options and seed, in a temporary directory; figures of speed are left out.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

HERE = Path(__file__).parent.parent
SPEED = ("train/tokens_per_second", "train/mfu")
RECIPES = {
    "default": [],
    "fast": ["--config", "configs/shakespeare.yaml", "--config", "configs/shakespeare-fast.yaml"],
    "gpt2 tokens, fp32": ["--data.tokenizer", "gpt2", "--trainer.precision", "32-true", "--data.batch_size", "4"],
}


def train(checkout: Path, recipe: str, options: list[str], directory: Path) -> Path:
    """Train a recipe with one checkout; return the run's directory. A failure is a RuntimeError with its last line."""
    command = [sys.executable, str(checkout / "train.py"), "fit"]
    command += [str(checkout / part) if part.startswith("configs/") else part for part in RECIPES[recipe]]
    command += [*options, "--experiment", "same", "--runs_dir", str(directory), "--data.data_dir"]
    command.append(str(directory / "data"))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{checkout}: {done.stderr.splitlines()[-1]}")
    return directory / "same" / "version_0"


def figures(run: Path) -> dict[tuple[str, int], float]:
    """Every scalar of a run by its tag and step."""
    log = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in log.Tags()["scalars"] if tag not in SPEED]
    return {(tag, event.step): event.value for tag in tags for event in log.Scalars(tag)}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Weights and optimiser state at the end of a run."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    states = checkpoint["optimizer_states"][0]["state"]
    tensors = {f"{number}.{name}": t for number, state in states.items() for name, t in state.items()}
    return checkpoint["state_dict"] | {name: t for name, t in tensors.items() if isinstance(t, torch.Tensor)}


def differing(before: dict, after: dict) -> list:
    """Names that only one has, or whose values are not the same to the last bit (NaN equals NaN)."""

    def same(a: float | torch.Tensor, b: float | torch.Tensor) -> bool:
        return torch.equal(torch.as_tensor(a).nan_to_num(), torch.as_tensor(b).nan_to_num())

    return [
        name
        for name in before | after
        if name not in before or name not in after or not same(before[name], after[name])
    ]


def main() -> None:
    """Train every recipe with both checkouts and print a line for each; exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps of each (default: 60)")
    parser.add_argument("--text", default="pydoc", help="corpus to train on (default: pydoc)")
    args = parser.parse_args()
    options = ["--data.corpus", args.text, "--trainer.max_steps", str(args.steps), "--trainer.val_check_interval", "40"]
    any_differs = False
    for recipe in tqdm(RECIPES, unit="recipe", disable=None, leave=False):
        with tempfile.TemporaryDirectory() as name:
            sides = (("before", args.before.resolve()), ("after", HERE))
            before, after = (train(checkout, recipe, options, Path(name) / side) for side, checkout in sides)
            logged, tensors = figures(before), weights(before)
            differences = differing(logged, figures(after)) + differing(tensors, weights(after))
        any_differs |= bool(differences)
        verdict = f"{len(differences)} differ, first {differences[0]}" if differences else "the same, bit for bit"
        tqdm.write(f"{recipe:<20}{len(logged):>6,} figures {len(tensors):>4} tensors  {verdict}")
    raise SystemExit(any_differs)


if __name__ == "__main__":
    main()

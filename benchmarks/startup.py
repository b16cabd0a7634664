"""How long until something happens: `import lightning`, `train.py fit --help`, and the first optimiser step of a run.

    python -m benchmarks.startup

Each is a process of its own; the corpus (Python's documentation) is tokenised beforehand.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from benchmarks.side_by_side import machine
from gpt_lightning.command_line import clear_errors

TRAIN = Path(__file__).parent.parent / "train.py"
IMPORTS = "import lightning, lightning.pytorch.cli, torchmetrics"


def main() -> None:
    """Parse, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run = [sys.executable, str(TRAIN), "fit", "--trainer.max_steps=1", "--runs_dir", f"{directory}/runs"]
        run += ["--data.data_dir", f"{directory}/data", "--attention_heatmaps.every_n_validations=0"]
        run += ["--depth_scan.every_n_validations=0", "--trainer.limit_val_batches=0"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "import lightning": [sys.executable, "-c", IMPORTS],
            "train.py fit --help": [sys.executable, str(TRAIN), "fit", "--help"],
            "a run of one step": run,
        }
        seconds = {name: [] for name in commands}
        for number in tqdm(range(args.rounds + 1), desc="rounds", leave=False):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, cwd=directory)
                if number > 0:  # the first reads libraries from the disk, and tokenises
                    seconds[name].append(time.perf_counter() - start)
    print(machine("cpu"))
    reference = statistics.median(seconds["import lightning"])
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"{min(times):.2f} to {max(times):.2f} s"
        print(f"{name:<22} {median:6.2f} s  {median / reference:.2f}× import lightning ({spread})")


if __name__ == "__main__":
    with clear_errors():
        main()

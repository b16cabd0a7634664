"""Are the depth scan's verdicts right? Train healthy and sick runs, and compare what was done with what the scan says.

    python -m benchmarks.calibration train --corpus shakespeare --seeds 3 --output runs/calibration
    python -m benchmarks.calibration table runs/calibration

`train` writes one JSON file of scans for every run, and skips runs that have one; `table` judges the scans anew,
without training, and prints the tables of docs/calibration.md.
"""

import argparse
import json
import logging
import math
import tempfile
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import gpt_lightning  # noqa: F401  first: it settles OpenMP's threads before torch is imported

# isort: split
import lightning as L
import torch
from tqdm import tqdm

from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.files import atomic_file
from gpt_lightning.interpret.judge.alarms import ALARMS, layer_alarms
from gpt_lightning.interpret.judge.verdicts import head_verdict
from gpt_lightning.interpret.metrics import HEAD_METRICS, LAYER_METRICS
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.model import GPTConfig
from gpt_lightning.module import GPTModule

STEPS, EVERY = 300, 25  # optimiser steps of a run, and between two scans
SICKENED_AT = 100  # the step at which a head or layer is zeroed
HEALTHY = {"learning_rate": 1e-3, "warmup_steps": 20, "clip": 1.0, "gpt": {}, "sicken": None, "steps": 1}
CONDITIONS = {
    "healthy": {},
    "healthy, RoPE": {"gpt": {"position": "rope"}},
    "borderline, lr 3e-3": {"learning_rate": 3e-3},
    "healthy, five times as long": {"learning_rate": 2e-3, "steps": 5},
    "learning rate 3e-2, no clipping": {"learning_rate": 3e-2, "clip": None},
    "large logits, no warm-up": {"learning_rate": 3e-3, "warmup_steps": 0, "sicken": "large logits"},
    "head zeroed": {"sicken": "zero head"},
    "attention of a layer zeroed": {"sicken": "zero attention"},
    "layer zeroed": {"sicken": "zero layer"},
}
ZEROED_LAYER, ZEROED_HEAD = 1, 2


class Sicken(L.Callback):
    """Do to a run what its condition says."""

    def __init__(self, what: str | None) -> None:
        self.what = what

    @torch.no_grad()
    def on_fit_start(self, trainer: L.Trainer, pl_module: GPTModule) -> None:
        """Make queries and keys eight times larger, and so logits 64 times."""
        if self.what == "large logits":
            C = pl_module.model.config.d_model
            for block in pl_module.model.blocks:
                block.attention.qkv.weight[: 2 * C].mul_(8)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: GPTModule, *args: object) -> None:
        """From a step on, keep weights at zero; once is not enough, since the optimiser's momentum moves them."""
        if self.what is None or not self.what.startswith("zero") or trainer.global_step < SICKENED_AT:
            return
        block, config = pl_module.model.blocks[ZEROED_LAYER], pl_module.model.config
        if self.what == "zero head":
            D = config.d_model // config.n_head
            head = slice(ZEROED_HEAD * D, (ZEROED_HEAD + 1) * D)
            block.attention.output.weight[:, head].zero_()
        else:
            for part in [block.attention.output] + ([block.mlp.down] if self.what == "zero layer" else []):
                part.weight.zero_()
                part.bias.zero_()


class Record(L.Callback):
    """Keep the validation loss and the scan of every validation."""

    def __init__(self) -> None:
        self.scans: list[dict] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: GPTModule) -> None:
        """Scan, as the DepthScan callback does."""
        result = depth_scan(pl_module.model, trainer.datamodule.validation_sequences(8), trainer.global_step)
        self.scans.append(result.to_json() | {"val_loss": float(trainer.callback_metrics["val/loss"])})


def run(corpus: str, tokenizer: str, data_dir: str, condition: str, seed: int, steps: int) -> list[dict]:
    """Train one run; returns its scans."""
    options = HEALTHY | CONDITIONS[condition]
    L.seed_everything(seed, verbose=False)
    data = TextDataModule(corpus, tokenizer, batch_size=8, context_length=128, data_dir=data_dir, seed=seed)
    data.prepare_data()
    data.setup()
    sizes = {"n_layer": 4, "n_head": 4, "d_model": 128, "context_length": 128}
    gpt = GPTConfig(**sizes | {"vocab_size": data.encoding.n_vocab} | options["gpt"])
    module = GPTModule(gpt, learning_rate=options["learning_rate"], warmup_steps=options["warmup_steps"])
    module.watch.takes = lambda fault: True  # a run that has diverged is scanned too
    record = Record()
    with tempfile.TemporaryDirectory() as directory:
        trainer = L.Trainer(
            accelerator="cpu",
            default_root_dir=directory,
            max_steps=options["steps"] * steps,
            gradient_clip_val=options["clip"],
            val_check_interval=EVERY,
            check_val_every_n_epoch=None,
            limit_val_batches=8,
            num_sanity_val_steps=0,
            callbacks=[Sicken(options["sicken"]), record],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
    return record.scans


def train(args: argparse.Namespace) -> None:
    """Train the runs that are not stored yet."""
    conditions = [name for name in CONDITIONS if not args.only or name in args.only]
    wanted = [(condition, seed) for seed in range(args.seeds) for condition in conditions]
    for condition, seed in tqdm(wanted, desc=f"{args.corpus}, {args.tokenizer}", unit="run"):
        name = f"{Path(args.corpus).stem}-{args.tokenizer}-{condition}-{seed}.json".replace(" ", "_").replace(",", "")
        if (args.output / name).exists():
            continue
        scans = run(args.corpus, args.tokenizer, args.data_dir, condition, seed, args.steps)
        about = {"corpus": Path(args.corpus).stem, "tokenizer": args.tokenizer, "condition": condition, "seed": seed}
        with atomic_file(args.output / name) as file:
            file.write(json.dumps(about | {"scans": scans}).encode())


def table(args: argparse.Namespace) -> None:
    """Judge every stored run by today's verdicts, and print the tables in Markdown."""
    files = sorted(args.directory.glob("*.json"))
    if not files:
        raise SystemExit(f"{args.directory} holds no runs; train some first.")
    runs = [json.loads(file.read_text()) for file in files]
    by_condition: dict[str, list[Judged]] = defaultdict(list)
    for one in runs:
        # When the loss shows it to someone who knows the healthy runs: a tenth of a nat worse than the worst of them.
        healthy = [other for other in runs if other["condition"] == "healthy" and same_text(one, other)]
        worst = [max(losses) + 0.1 for losses in zip(*(losses_of(other) for other in healthy), strict=True)]
        by_condition[one["condition"]].append(judge(one, worst))
    order = [name for name in CONDITIONS if name in by_condition]
    kinds = ["no alarm", *ALARMS]
    print("| what was done | runs |", " | ".join(kinds), "|")
    print("|---" * (2 + len(kinds)) + "|")
    for condition in order:
        counts = Counter(kind for judged in by_condition[condition] for kind in judged.kinds or {"no alarm"})
        print(
            f"| {condition} | {len(by_condition[condition])} |", " | ".join(str(counts[k] or "·") for k in kinds), "|"
        )
    print(
        "\n| what was done | suspicion at step | alarm at step | validation loss shows it at step | no later | place |"
    )
    print("|---" * 6 + "|")
    for condition in order:
        found = by_condition[condition]
        steps = [span([getattr(judged, name) for judged in found]) for name in ("suspected", "confirmed", "loss_shows")]
        sick = not condition.startswith(("healthy", "borderline"))
        early = sum(judged.suspected is not None and judged.suspected <= (judged.loss_shows or 1e9) for judged in found)
        placed = sum(judged.right_place for judged in found)
        last = f"{early} of {len(found)} | {placed} of {len(found)}" if sick else "– | –"
        print(f"| {condition} | {' | '.join(steps)} | {last} |")


@dataclass
class Judged:
    """What the scans said of a run, and at which step; None means never."""

    kinds: set[str]  # of alarms that were confirmed at any scan
    suspected: int | None
    confirmed: int | None
    loss_shows: int | None
    right_place: bool  # whether a confirmed alarm names the layer, and the head, that was zeroed


def judge(one: dict, worst_healthy: list[float]) -> Judged:
    """Judge a run's scans one after another, as the callback does."""
    history, kinds, suspected, confirmed, places = [], set(), None, None, set()
    for scan in one["scans"]:
        result = rebuilt(scan)
        history.append(result.record())
        alarms = [alarm for alarm in layer_alarms(history) if alarm.kind != "lazy layer"]
        if alarms and suspected is None:
            suspected = scan["step"]
        certain = [alarm for alarm in alarms if alarm.confirmed]
        if certain and confirmed is None:
            confirmed = scan["step"]
        kinds |= {alarm.kind for alarm in certain}
        places |= {(alarm.kind, alarm.layer, alarm.reason.split(":")[0]) for alarm in certain}
    compared = zip(one["scans"], worst_healthy, strict=False)  # none where no healthy run is as long
    shows = [scan["step"] for scan, worst in compared if not scan["val_loss"] < worst]
    zeroed = one["condition"].endswith("zeroed")
    expected = f"head {ZEROED_HEAD}" if one["condition"] == "head zeroed" else None
    right = any(layer == ZEROED_LAYER and expected in (None, reason) for _, layer, reason in places)
    return Judged(kinds, suspected, confirmed, shows[0] if shows else None, right if zeroed else bool(places))


def rebuilt(scan: dict) -> DepthScanResult:
    """A scan from its JSON, with today's verdicts."""

    def numbers(values: list) -> torch.Tensor:
        return torch.tensor([math.nan if value is None else value for value in values])

    layers = scan["layers"]
    heads = {
        name: torch.stack([numbers([h.get(name) for h in one["heads"]]) for one in layers]) for name in HEAD_METRICS
    }
    L, H = heads["entropy"].shape
    verdicts = [
        [head_verdict({name: float(x[i, j]) for name, x in heads.items()}, scan["step"]) for j in range(H)]
        for i in range(L)
    ]
    per_layer = {name: numbers([layer[name] for layer in layers]) for name in LAYER_METRICS}
    sizes = (scan["sequences"], scan["tokens"], scan["step"])
    return DepthScanResult(heads, per_layer, verdicts, *sizes, [["one token"] * H] * L)


def same_text(one: dict, other: dict) -> bool:
    return all(one[name] == other[name] for name in ("corpus", "tokenizer")) and len(one["scans"]) == len(
        other["scans"]
    )


def losses_of(one: dict) -> list[float]:
    return [scan["val_loss"] for scan in one["scans"]]


def span(steps: list[int | None]) -> str:
    """Earliest to latest, and how often never."""
    found = sorted(step for step in steps if step is not None)
    if not found:
        return "never"
    text = str(found[0]) if found[0] == found[-1] else f"{found[0]}–{found[-1]}"
    return text if len(found) == len(steps) else f"{text} (never in {len(steps) - len(found)})"


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("--corpus", default="pydoc")
    training.add_argument("--tokenizer", default="bytes")
    training.add_argument("--data_dir", default="data")
    training.add_argument("--seeds", type=int, default=3)
    training.add_argument("--steps", type=int, default=STEPS)
    training.add_argument("--only", nargs="*", help="conditions to train (default: all)")
    training.add_argument("--output", type=Path, default=Path("runs/calibration"))
    training.set_defaults(do=train)
    showing = commands.add_parser("table")
    showing.add_argument("directory", type=Path)
    showing.set_defaults(do=table)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()

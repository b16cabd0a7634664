"""Checkpoints that an earlier version wrote go on loading, and a run that goes on from one ends as it did then.

`tests/old_checkpoints/` was written by the main of 2026-11-25, before the code was rearranged, on the words of
`corpus_file`, one of them inside an accumulation window.
"""

import pytest
import torch

from tests.conftest import REPO
from tests.whole_runs.conftest import LAST

SIZES = ["--model.gpt.n_layer=2", "--model.gpt.n_head=2", "--model.gpt.d_model=16", "--model.gpt.context_length=32"]
SIZES += ["--model.gpt.dropout=0.1", "--model.warmup_steps=5"]
DATA = ["--data.data_dir=data", "--data.batch_size=4"]
TRAINER = ["accelerator=cpu", "max_steps=30", "accumulate_grad_batches=2", "limit_val_batches=4", "log_every_n_steps=5"]
TRAINER += ["precision=32-true", "val_check_interval=20"]
MODERN = ["--model.gpt.position=rope", "--model.gpt.norm=rms", "--model.gpt.qk_norm=true", "--model.gpt.bias=false"]
MODERN += ["--model.gpt.activation=relu_squared", "--model.gpt.tie_weights=false"]
MODERN += ["--model.optimizer=muon", "--model.embedding_learning_rate=0.1", "--trainer.val_check_interval=45"]
# Options of the run, the step it was saved at, and the sum of absolute weights with which it ended.
OLD = {
    "gpt2": ([], 20, 487.24945889),
    "modern": (MODERN, 22, 635.19416603),
    "bpe": (["--data.tokenizer=bpe:300"], 20, 527.92516350),
}


@pytest.mark.parametrize("name", OLD)
def test_a_run_of_an_earlier_version_goes_on_as_it_did_then(name, must_work, corpus_file, tmp_path):
    options, _, total = OLD[name]
    given = [*SIZES, *DATA, *(f"--trainer.{option}" for option in TRAINER), *options]
    old = REPO / "tests" / "old_checkpoints" / f"{name}.ckpt"
    must_work("train.py", "fit", f"--data.corpus={corpus_file}", *given, "--ckpt_path", old)
    content = torch.load(tmp_path / LAST, weights_only=True)
    assert content["global_step"] == 30
    # Another machine adds in another order.
    assert sum(w.double().abs().sum().item() for w in content["state_dict"].values()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", OLD)
def test_a_checkpoint_of_an_earlier_version_is_analysed_and_continued(name, must_work, tmp_path):
    old = REPO / "tests" / "old_checkpoints" / f"{name}.ckpt"
    must_work("analyze.py", "--checkpoint", old, "--output", tmp_path / "analysis", "--no-ablation")
    # The scans that the run had made before are in it, and are shown; of modern's there was none.
    assert f'"step": {OLD[name][1]}' in (tmp_path / "analysis" / "depth_scan.json").read_text()
    assert (tmp_path / "analysis" / "entropy_over_time.png").is_file() == (name != "modern")
    text, _ = must_work("generate.py", "--checkpoint", old, "--prompt", "the cat ", "--tokens", 8)
    assert text.startswith("the cat ")
    assert len(text) > len("the cat ")

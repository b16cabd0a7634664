"""`train.py audit`: it calls an exact run exact, and finds what differs in one that is not."""

import json

import pytest
import torch

from cli.commands.audit import compare, options_of_run
from gpt_lightning.errors import UserError
from tests.command_line import TINY, run
from tests.whole_runs.conftest import LAST, RUN

OF_AUDIT = "runs/audit/version_0/checkpoints/last.ckpt"


def test_a_run_is_audited_from_its_checkpoint_alone(must_work, tmp_path, corpus_file):
    # The run is limited by epochs and time; the audit has to lift both limits.
    limits = ["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.limit_train_batches=20"]
    limits += ["--trainer.max_time=00:00:05:00"]
    must_work("train.py", "fit", *TINY, *limits, f"--data.corpus={corpus_file}")
    before = sorted(tmp_path.rglob("*"))
    result = run("train.py", "audit", "--checkpoint", LAST, "--steps", 4, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        "Exact: 4 steps from step 10, straight and with a stop at step 12, gave the same batches, losses, weights and "
        "optimiser state, bit for bit.\n"
    )
    assert sorted(tmp_path.rglob("*")) == before  # the run itself was left alone


@pytest.fixture
def two_runs(tmp_path):
    """The directories of two runs with equal records and checkpoints."""
    for name in ("straight", "other"):
        (tmp_path / name / "trail").mkdir(parents=True)
        lines = [{"batch": batch, "tokens": 7 * batch, "loss": 1.5} for batch in range(10)]
        (tmp_path / name / "trail/rank_0.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        (tmp_path / name / OF_AUDIT).parent.mkdir(parents=True)
        content = {
            "hyper_parameters": {"gpt": {}},
            "TextDataModule": {"tokenizer": {}},
            "global_step": 10,
            "pytorch-lightning_version": "2.6.6",
            "state_dict": {"weight": torch.ones(3)},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}],
        }
        torch.save(content, tmp_path / name / OF_AUDIT)
    return tmp_path / "straight", tmp_path / "other"


def test_equal_runs_have_no_differences(two_runs):
    assert compare(*two_runs) == []


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ('"tokens": 28', '"tokens": 29', "the text from batch 4 on"),
        ('"batch": 6', '"batch": 7', "the text from batch 6 on"),
        ('63, "loss": 1.5', '63, "loss": 1.5000001', "loss from batch 9 on"),
        ('{"batch": 9, "tokens": 63, "loss": 1.5}\n', "", "the text from batch 8 on"),
    ],
)
def test_a_difference_in_a_batch_is_found(two_runs, old, new, difference):
    trail = two_runs[1] / "trail/rank_0.jsonl"
    assert old in trail.read_text()
    trail.write_text(trail.read_text().replace(old, new))
    assert compare(*two_runs) == [difference]


def test_differences_in_weights_and_optimiser_are_measured(two_runs):
    content = torch.load(two_runs[1] / OF_AUDIT, weights_only=True)
    content["state_dict"]["weight"][1] += 0.25
    content["optimizer_states"][0]["state"][0]["step"] += 1
    torch.save(content, two_runs[1] / OF_AUDIT)
    assert compare(*two_runs) == ["weights by up to 0.25", "optimiser state by up to 1"]


@pytest.mark.parametrize("content", [b"\xff", b"a: [", b"", b"[]", b"trainer:\n  max_steps: x\n  max_epochs: 1"])
def test_a_damaged_configuration_beside_the_checkpoint_is_one_sentence(tmp_path, content):
    checkpoint = tmp_path / LAST
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    (tmp_path / RUN / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml is not the configuration of a run"):
        options_of_run(checkpoint, 10)


def test_bad_arguments_are_one_line(main):
    for args, message in (
        (["--checkpoint", "nowhere.ckpt"], "There is no checkpoint at nowhere.ckpt"),
        (["--steps", "1"], "--steps: 1 is out of range: it must be at least 2"),
        (["--steps", "x"], "--steps: 'x' is not a whole number"),
    ):
        status, _, err = main("train.py", "audit", *args)
        assert status in (1, 2)
        assert message in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1

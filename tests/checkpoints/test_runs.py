"""The directories of runs: the next one, the last one that can be resumed, and that of a checkpoint."""

from pathlib import Path

import pytest

from gpt_lightning.checkpoints.runs import LAST, last_run, new_run, run_of
from gpt_lightning.errors import UserError


def make_run(directory: Path, version: int, checkpoint: bool) -> Path:
    run = directory / f"version_{version}"
    (run / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (run / LAST).touch()
    return run


def test_a_new_run_follows_the_highest_number(tmp_path):
    assert new_run(tmp_path / "none yet") == tmp_path / "none yet/version_0"
    make_run(tmp_path, 2, checkpoint=False)
    make_run(tmp_path, 10, checkpoint=False)
    (tmp_path / "version_99.old").mkdir()
    assert new_run(tmp_path) == tmp_path / "version_11"


def test_the_last_run_is_the_newest_that_can_be_resumed(tmp_path):
    make_run(tmp_path, 9, checkpoint=True)
    make_run(tmp_path, 10, checkpoint=True)
    make_run(tmp_path, 11, checkpoint=False)  # it crashed before its first checkpoint
    assert last_run(tmp_path) == tmp_path / "version_10"


def test_nothing_to_resume_is_said(tmp_path):
    make_run(tmp_path, 0, checkpoint=False)
    with pytest.raises(UserError, match="nothing to resume"):
        last_run(tmp_path)


def test_a_checkpoint_knows_its_run(tmp_path):
    run = make_run(tmp_path, 3, checkpoint=True)
    assert run_of(run / LAST) == run
    assert run_of(tmp_path / "elsewhere.ckpt") is None

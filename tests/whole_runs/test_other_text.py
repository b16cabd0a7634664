"""`train.py test`: all of a text that the checkpoint was not trained on is tested, and the test split of its own."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from gpt_lightning.checkpoints.content import DATA_KEY
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from tests.command_line import TINY, run
from tests.whole_runs.conftest import LAST, loss_by_hand, printed_loss

OTHER = b"An old man and the sea. " * 9 + bytes(range(32, 127)) + "Größe, 漢字".encode() * 7


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus_file) -> Path:
    """The directory of a run on a text.txt that lies in it and is named relative to it."""
    directory = tmp_path_factory.mktemp("trained")
    (directory / "text.txt").write_bytes(corpus_file.read_bytes())
    options = ["--data.corpus=text.txt", "--trainer.max_steps=6", "--trainer.logger=false"]
    result = run("train.py", "fit", *TINY, *options, cwd=directory)
    assert result.returncode == 0, result.stderr
    return directory


@pytest.fixture
def tested_on(must_work, trained):
    """Test the run's checkpoint; returns the printed loss and the line that says which text was tested."""

    def test(*options: object, checkpoint: Path = trained / LAST) -> tuple[float, str]:
        out, err = must_work("train.py", "test", *TINY, f"--ckpt_path={checkpoint}", *options)
        said = [line for line in err.splitlines() if "Tests on" in line]
        return printed_loss(out), "\n".join(said)

    return test


def expected_loss(checkpoint: Path, text: bytes) -> float:
    return loss_by_hand(load_checkpoint(checkpoint).model, text, 32)


def same(loss: float) -> object:
    return pytest.approx(loss, rel=1e-5)


def test_all_of_another_file_is_tested_on_and_that_is_said(tested_on, trained, tmp_path):
    (tmp_path / "other.txt").write_bytes(OTHER)
    loss, said = tested_on("--data.corpus=other.txt")
    assert said == "Tests on all of other.txt, which the checkpoint was not trained on."
    assert loss == same(expected_loss(trained / LAST, OTHER))
    assert loss != same(expected_loss(trained / LAST, OTHER[len(OTHER) * 95 // 100 :]))


def test_of_what_it_was_trained_on_the_split_is_tested_on_wherever_that_is_named_from(tested_on, trained):
    text = (trained / "text.txt").read_bytes()
    expected = expected_loss(trained / LAST, text[len(text) * 95 // 100 :])
    for name in (trained / "text.txt", os.path.relpath(trained / "text.txt")):
        assert tested_on(f"--data.corpus={name}") == (same(expected), "")


def test_named_corpora_keep_their_split(tested_on):
    assert tested_on("--data.corpus=pydoc", "--trainer.limit_test_batches=1")[1] == ""


def test_the_user_says_which_part(tested_on, trained, tmp_path):
    (tmp_path / "other.txt").write_bytes(OTHER)
    loss, said = tested_on("--data.corpus=other.txt", "--data.percents=[50, 0, 50]")
    assert said == ""
    assert loss == same(expected_loss(trained / LAST, OTHER[len(OTHER) * 50 // 100 :]))


def test_a_text_that_may_be_the_same_is_not_said_to_be_another(tested_on, trained, tmp_path):
    """The text is a copy elsewhere."""
    shutil.copy(trained / "text.txt", tmp_path / "text.txt")
    text = (trained / "text.txt").read_bytes()
    loss, said = tested_on("--data.corpus=text.txt")
    its_text = repr(str((trained / "text.txt").resolve()))
    expected = f"some of which the checkpoint may have been trained on: its text was {its_text}."
    assert said == f"Tests on all of text.txt, {expected}"
    assert loss == same(expected_loss(trained / LAST, text))


@pytest.mark.parametrize("forgotten", [["source"], ["source", "options"]])
def test_checkpoints_that_do_not_say_all(tested_on, trained, tmp_path, forgotten):
    """An older checkpoint knows the text by the name that the user gave; one that knows nothing gets the test split."""
    content = torch.load(trained / LAST, weights_only=True)
    del content[DATA_KEY]["text"]["source"]
    content["datamodule_hyper_parameters"]["corpus"] = str(tmp_path / "a.txt")
    if "options" in forgotten:
        del content["datamodule_hyper_parameters"]
    checkpoint = tmp_path / "old.ckpt"
    torch.save(content, checkpoint)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(OTHER)
        loss, said = tested_on(f"--data.corpus={name}", checkpoint=checkpoint)
        of_all = name == "b.txt" and "options" not in forgotten
        assert said == ("Tests on all of b.txt, which the checkpoint was not trained on." if of_all else "")
        assert loss == same(expected_loss(checkpoint, OTHER if of_all else OTHER[len(OTHER) * 95 // 100 :]))


@pytest.mark.parametrize(
    ("subcommand", "percents", "message"),
    [
        ("fit", "[0, 0, 100]", "The val split of corpus other.txt is empty, since data.percents is [0, 0, 100]"),
        ("fit", "[0, 50, 50]", "The train split of corpus other.txt is empty"),
        ("fit", "[100, 0, 0]", "The val split of corpus other.txt is empty"),
        ("validate", "[0, 0, 100]", "The val split of corpus other.txt is empty"),
        ("test", "[50, 50, 0]", "The test split of corpus other.txt is empty"),
        ("test", "[50, 50]", "data.percents is [50, 50] but must be three whole numbers of at least 0 that sum to 100"),
        ("test", "[50, 60, -10]", "data.percents is [50, 60, -10] but must be"),
        ("test", "[50, 40, 9]", "data.percents is [50, 40, 9] but must be"),
        ("test", "[50, 50, 0.0]", "data.percents"),
        ("fit", "[50, 49, 1]", "is too small: its test split has nothing to predict"),
    ],
)
def test_shares_that_cannot_be_are_one_sentence(main, trained, tmp_path, subcommand, percents, message):
    (tmp_path / "other.txt").write_bytes(OTHER[:99])
    checkpoint = [] if subcommand == "fit" else [f"--ckpt_path={trained / LAST}"]
    options = ["--data.corpus=other.txt", f"--data.percents={percents}", "--trainer.logger=false", *checkpoint]
    status, _, err = main("train.py", subcommand, *TINY, *options)
    assert status in (1, 2)
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err

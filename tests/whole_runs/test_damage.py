"""Damage: broken, missing and hostile checkpoints, full disks, two processes in one place.

Each is reported in one sentence, and what was written stays.
"""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from gpt_lightning.checkpoints import runs
from gpt_lightning.checkpoints.content import read_checkpoint
from gpt_lightning.checkpoints.save import AtomicCheckpointIO
from gpt_lightning.checkpoints.torch_files import DamagedCheckpoint
from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from tests.command_line import TINY, command, environment
from tests.conftest import REPO
from tests.whole_runs.conftest import LAST, PREVIOUS, RUN, step_of

# ---- checkpoints


def test_the_checkpoint_before_the_last_is_kept(trained, last):
    assert step_of(last) == 40
    assert step_of(trained / PREVIOUS) == 30


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    """In the middle of the file, which is inside a tensor: only a checksum can tell."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(must_work, copied, corpus_file, damage):
    damage(copied / runs.LAST)
    args = ["fit", *TINY, f"--data.corpus={corpus_file}", "--trainer.max_steps=40", "--ckpt_path=last"]
    out, _ = must_work("train.py", *args)
    assert f"{LAST} is damaged or missing: going on from {PREVIOUS}, step 30." in out
    assert "resumed at step 30" in out
    assert step_of(copied / runs.LAST) == 40


def test_without_an_undamaged_checkpoint_the_error_names_the_file(main, copied, corpus_file):
    for name in (runs.LAST, runs.PREVIOUS):
        truncate(copied / name)
    before = (copied / runs.LAST).read_bytes()
    status, _, err = main("train.py", "fit", *TINY, f"--data.corpus={corpus_file}", "--ckpt_path=last")
    assert status == 1
    assert err.startswith(f"error: {PREVIOUS} is not a complete checkpoint (truncated or damaged)")
    assert (copied / runs.LAST).read_bytes() == before


def test_no_flipped_bit_goes_unnoticed(last, tmp_path):
    """The file is refused, or holds the same weights: padding and times in the archive mean nothing."""
    complete = last.read_bytes()
    expected = torch.load(last, weights_only=True)["state_dict"]
    chooser, path = random.Random(0), tmp_path / "flipped.ckpt"
    refused = 0
    for _ in range(150):
        content = bytearray(complete)
        content[chooser.randrange(len(content))] ^= 1 << chooser.randrange(8)
        path.write_bytes(content)
        try:
            weights = read_checkpoint(path)["state_dict"]
        except UserError:
            refused += 1
        else:
            assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert refused > 75


def test_a_truncated_checkpoint_is_refused_wherever_it_ends(last, tmp_path):
    complete, path = last.read_bytes(), tmp_path / "short.ckpt"
    for size in [1, 10, 1000, *range(5000, len(complete), 7001), len(complete) - 1]:
        path.write_bytes(complete[:size])
        with pytest.raises(UserError):
            read_checkpoint(path)


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(last, tmp_path):
    """torch.save never compresses, and a compressed file might unpack to more than fits into memory."""
    path = tmp_path / "bomb.ckpt"
    with (
        zipfile.ZipFile(last) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in source.namelist():
            bomb.writestr(member, source.read(member))
    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "sizes",
    [{"n_layer": 2**24}, {"d_model": 2**24, "n_head": 1}, {"context_length": 2**24}, {"vocab_size": 2**24}],
)
def test_sizes_that_the_weights_do_not_have_cost_no_memory(last, tmp_path, sizes):
    content = torch.load(last, weights_only=True)
    content["hyper_parameters"]["gpt"] |= sizes
    torch.save(content, tmp_path / "large.ckpt")
    with pytest.raises(UserError, match="don't fit"):
        load_checkpoint(tmp_path / "large.ckpt")


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("train.py", ["fit", *TINY, "--ckpt_path=evil.ckpt"]),
        ("train.py", ["validate", *TINY, "--ckpt_path=evil.ckpt"]),
        ("train.py", ["fit", *TINY, "--ckpt_path=last"]),
        ("analyze.py", ["--checkpoint=evil.ckpt"]),
        ("generate.py", ["--checkpoint=evil.ckpt"]),
    ],
)
def test_a_checkpoint_never_runs_anything(main, copied, corpus_file, script, args):
    mark = Path("executed").resolve()
    content = torch.load(copied / runs.LAST, weights_only=True)
    content["callbacks"] = Evil(mark)
    corpus = [f"--data.corpus={corpus_file}"] if script == "train.py" else []
    for path in (Path("evil.ckpt"), copied / runs.LAST):
        torch.save(content, path)
    status, _, err = main(script, *args, *corpus)
    assert status == 1
    assert "holds more than plain data and was not loaded" in err
    # A bare pickle, as old versions of torch wrote it, is not even opened.
    (copied / runs.PREVIOUS).unlink(missing_ok=True)
    for path in (Path("evil.ckpt"), copied / runs.LAST):
        path.write_bytes(pickle.dumps(content))
    status, _, err = main(script, *args, *corpus)
    assert status == 1
    assert "is not a complete checkpoint" in err
    assert not mark.exists()


def test_a_killed_save_leaves_the_file_before_it_and_its_rest_is_removed_by_the_next(tmp_path):
    path = tmp_path / "checkpoints/last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    script = (
        "import os, signal, sys; from pathlib import Path; from gpt_lightning.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, path], cwd=REPO)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert len(list(path.parent.iterdir())) == 2
    AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert torch.load(path.with_name("previous.ckpt"), weights_only=True) == {"step": 1}


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


# ---- full disks


def limited(megabytes: float) -> None:
    """Let no file of this process grow beyond this, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(megabytes * 1e6), int(megabytes * 1e6)))


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.9, f"{LAST} could not be written (File too large): make room"),
        (1.2, f"{RUN} could not be written (File too large): make room"),  # TensorBoard's file
    ],
)
def test_a_disk_that_fills_up_ends_the_run_with_one_sentence(copied, corpus_file, tmp_path, share, message):
    """The checkpoint that is there stays, and the next call goes on from it.

    No file may be larger than a share of a checkpoint; TensorBoard's file, with its pictures, soon is.
    """
    args = ["fit", *TINY, f"--data.corpus={corpus_file}", "--trainer.max_steps=80", "--ckpt_path=last"]
    size = (copied / runs.LAST).stat().st_size
    ended = subprocess.run(
        command("train.py", *args),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: limited(share * size / 1e6),
    )
    assert ended.returncode == 1
    (line,) = filter(None, ended.stderr.splitlines())
    assert line.startswith(f"error: {message}")
    assert "saved. Go on with" in ended.stdout
    assert step_of(copied / runs.LAST) >= 40
    assert not list(copied.rglob("*.tmp"))


def test_a_run_whose_directory_is_deleted_says_so(main, tmp_path, corpus_file, monkeypatch):
    import callbacks

    def delete(self, trainer, *_):
        if trainer.global_step == 25:
            shutil.rmtree(RUN)

    monkeypatch.setattr(callbacks.Throughput, "on_train_batch_start", delete)
    status, out, err = main("train.py", "fit", *TINY, f"--data.corpus={corpus_file}")
    assert status == 1
    assert err.startswith(f"error: No such file or directory: {RUN}")
    assert "all saved. Go on with" in out
    assert read_checkpoint(LAST)["global_step"] >= 25


# ---- two processes in one place


def test_two_runs_started_at_once_get_directories_of_their_own(tmp_path):
    script = (
        "import sys; from pathlib import Path; from gpt_lightning.checkpoints import runs\n"
        "print([runs.make_run(Path(sys.argv[1])).name for _ in range(50)])\n"
    )
    several = [subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=REPO, stdout=-1) for _ in range(3)]
    made = [name for process in several for name in json.loads(process.communicate()[0].replace(b"'", b'"'))]
    assert len(made) == len(set(made)) == 150


def test_a_run_that_is_being_trained_is_not_trained_by_another(main, must_work, copied, corpus_file):
    held = runs.lock(copied)
    status, _, err = main("train.py", "fit", *TINY, f"--data.corpus={corpus_file}", "--ckpt_path=last")
    assert status == 1
    assert err.startswith(f"error: Another process is training in {RUN}")
    held.release()
    must_work("train.py", "fit", *TINY, f"--data.corpus={corpus_file}", "--ckpt_path=last", "--trainer.max_steps=42")


def test_a_run_that_never_began_leaves_no_directory(main, tmp_path):
    status, _, err = main("train.py", "fit", *TINY, "--data.corpus=nowhere.txt")
    assert status == 1
    assert "nowhere.txt" in err
    assert not list(tmp_path.rglob("version_*"))


def test_a_second_ctrl_c_stops_at_once(tmp_path, corpus_file):
    """The first waits for the step under way, here for ever."""
    (tmp_path / "slow.py").write_text(
        "import runpy, sys, time\n"
        f"sys.path.insert(0, {str(REPO)!r})\n"
        "import callbacks\n"
        "class Slow(callbacks.Throughput):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 15:\n"
        "            print('slow', flush=True); time.sleep(60)\n"
        "callbacks.Throughput = Slow\n"
        "sys.argv[0] = 'train.py'\n"
        f"runpy.run_path({str(REPO / 'train.py')!r}, run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "slow.py", "fit", *TINY, f"--data.corpus={corpus_file}"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "slow" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "Once more to stop at once" in (process.stderr.readline() + process.stderr.readline())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "Interrupted after 15 optimiser steps, of which 10 are saved. Go on with" in out
    assert "Traceback" not in err


TAMPERED = {
    "no step": lambda c: c.pop("global_step"),
    "a step in words": lambda c: c.update(global_step="x"),
    "a huge step": lambda c: c.update(global_step=10**30),
    "no weights": lambda c: c.pop("state_dict"),
    "a list of weights": lambda c: c.update(state_dict=[1]),
    "a weight by number": lambda c: c["state_dict"].update({5: torch.zeros(1)}),
    "a weight in words": lambda c: c["state_dict"].update({"model.norm.weight": "x"}),
    "a weight of integers": lambda c: c["state_dict"].update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}),
    "a sparse weight": lambda c: c["state_dict"].update({"model.norm.weight": torch.ones(16).to_sparse()}),
    "a weight of another size": lambda c: c["state_dict"].update({"model.norm.weight": torch.ones(3)}),
    "a tokenizer of nothing": lambda c: c["TextDataModule"].update(tokenizer={}),
    "sequences in words": lambda c: c["TextDataModule"].update(validation_sequences="x"),
    "one sequence": lambda c: c["TextDataModule"].update(validation_sequences=torch.zeros(5, dtype=torch.long)),
    "a weight that repeats itself": lambda c: c["state_dict"].update({"model.norm.weight": torch.ones(1).expand(16)}),
    "sequences that repeat themselves": lambda c: c["TextDataModule"].update(
        validation_sequences=torch.zeros(1, 1, dtype=torch.long).expand(2**40, 32)
    ),
    "no scans": lambda c: c["callbacks"]["DepthScan"].update(history=[{"step": 1}, 5]),
}
TAMPERED_TRAINING = {
    "no version": lambda c: c.pop("pytorch-lightning_version"),
    "no such version": lambda c: c.update({"pytorch-lightning_version": "banana"}),
    "no optimiser": lambda c: c.pop("optimizer_states"),
    "no schedule": lambda c: c.pop("lr_schedulers"),
    "no place": lambda c: c.pop("loops"),
    "another place": lambda c: c.update(loops={"fit_loop": {"a": 1}}),
    "fewer groups": lambda c: c["optimizer_states"][0]["param_groups"].pop(),
    "a moment of another size": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(3)),
    "a moment that is infinite": lambda c: c["optimizer_states"][0]["state"][0]["exp_avg_sq"].fill_(float("inf")),
    "a weight that is NaN": lambda c: c["state_dict"]["model.norm.weight"].fill_(float("nan")),
}


@pytest.mark.parametrize("how", [*TAMPERED, *TAMPERED_TRAINING])
def test_what_is_undamaged_but_not_as_written_is_one_sentence(copied, main, how):
    last = copied / runs.LAST
    content = torch.load(last, weights_only=True)
    (TAMPERED | TAMPERED_TRAINING)[how](content)
    torch.save(content, last)
    torch.save(content, copied / runs.PREVIOUS)
    calls = [("train.py", "fit", *TINY, "--trainer.max_steps=50", "--ckpt_path=last")]
    if how in TAMPERED:
        calls += [(script, f"--checkpoint={last}") for script in ("generate.py", "analyze.py")]
    for call in calls:
        status, _, err = main(*call)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 1, call
        assert len(lines) == 1, err


def test_generate_refuses_weights_that_are_not_finite(last, tmp_path, main):
    content = torch.load(last, weights_only=True)
    content["state_dict"]["model.norm.weight"][3] = float("inf")
    torch.save(content, tmp_path / "bad.ckpt")
    status, _, err = main("generate.py", f"--checkpoint={tmp_path / 'bad.ckpt'}")
    assert status == 1
    assert err.splitlines()[-1] == (
        f"error: {tmp_path / 'bad.ckpt'} has a weight that is not finite: norm.weight (the final norm) has 1 inf among "
        "its 16 values."
    )


def test_a_reader_that_has_enough_of_the_text_is_no_error(last):
    generate = [sys.executable, str(REPO / "generate.py"), f"--checkpoint={last}"]
    process = subprocess.Popen(generate, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # as `| head` does
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 1


def test_a_directory_in_place_of_the_last_checkpoint_is_refused_at_once(copied, main):
    last = copied / runs.LAST
    last.unlink()
    last.mkdir()
    status, out, err = main("train.py", "fit", *TINY, "--ckpt_path=last")
    assert status == 1
    assert "last.ckpt is not a file, so nothing could be saved there" in err
    assert "run " not in out

"""Benchmarks judge and time; what they judge by has to be right. No timing is asserted."""

import json
import math
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    decoding,
    feeding,
    framework_cost,
    largest_batch,
    loss_memory,
    peers,
    preparing,
    recipe,
    scan_statistics,
    tokenising,
    training,
)
from benchmarks.calibration import judge, rebuilt
from benchmarks.fresh_process import Meter, measured
from benchmarks.side_by_side import print_table, take_turns
from gpt_lightning.data.tokens.shards import SPLITS
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.scan import depth_scan
from gpt_lightning.model import GPT, GPTConfig
from tests.interpret.conftest import random_tokens, sharpened_gpt


def stored(step: int, dead_layer: bool, loss: float) -> dict:
    """A scan as the calibration stores it, of a network whose layer 1 may be dead."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, d_model=16, context_length=72, vocab_size=50))
    if dead_layer:
        with torch.no_grad():
            for part in (gpt.blocks[1].attention.output, gpt.blocks[1].mlp.down):
                part.weight.zero_()
                part.bias.zero_()
    return json.loads(json.dumps(depth_scan(gpt, random_tokens(2, 70), step).to_json() | {"val_loss": loss}))


def test_a_stored_scan_is_judged_as_the_scan_itself():
    result = depth_scan(sharpened_gpt(), random_tokens(2, 70), step=50)
    again = rebuilt(json.loads(json.dumps(result.to_json())))
    assert [[v.kind for v in row] for row in again.verdicts] == [[v.kind for v in row] for row in result.verdicts]
    for one, other in zip(again.record()["layers"], result.record()["layers"], strict=True):
        assert one["dead_heads"] == other["dead_heads"]
        for name in one.keys() - {"dead_heads", "stripe_at"}:
            assert one[name] == pytest.approx(other[name], rel=1e-5), name


def test_when_a_run_is_named_and_when_its_loss_shows_it():
    steps = [(25, False, 2.0), (50, True, 2.0), (75, True, 2.0), (100, True, 3.0)]
    run = {"condition": "layer zeroed", "scans": [stored(*step) for step in steps]}
    found = judge(run, worst_healthy=[2.5] * 4)
    assert (found.suspected, found.confirmed, found.loss_shows) == (50, 75, 100)
    assert found.kinds == {"dead layer"}
    assert found.right_place


# ---- measuring


def test_a_table_says_how_many_times_faster(capsys):
    print_table({"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 4.0, 8.0]}, work=8, unit="tokens", reference="theirs")
    header, ours, theirs = capsys.readouterr().out.splitlines()
    assert header.split() == ["ms", "(median)", "tokens/s", "speed", "over", "theirs"]
    assert ours.split() == ["ours", "2000", "4", "2.00×", "(2.00", "to", "2.00)"]
    assert theirs.split() == ["theirs", "4000", "2", "1"]


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = take_turns(contenders, rounds=3)
    assert "".join(calls) == "ab" + "ba" + "ab" + "ba"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def hold(megabytes: int, seconds: float, meter: Meter) -> None:
    """Have some memory before the measurement, more for a while in it, and yet more after its end."""
    before = np.ones(megabytes * 10**6, np.uint8)
    meter.begin()
    during = np.ones(megabytes * 10**6, np.uint8)
    time.sleep(seconds)
    del during
    meter.end()
    after = np.ones(3 * megabytes * 10**6, np.uint8)
    time.sleep(0.1)
    assert before.sum() + after.sum() == 4 * megabytes * 10**6


def test_memory_and_time_are_those_between_begin_and_end():
    seconds, megabytes = measured(hold, 200, 0.2)
    assert megabytes == pytest.approx(200, abs=40)
    assert 0.2 < seconds < 60


# ---- each command, at toy size


def rows(main, capsys, monkeypatch, *options: str) -> list[str]:
    """What a command prints."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    main()
    return capsys.readouterr().out.splitlines()


TOY = ["--n_layer=1", "--n_head=2", "--d_model=16", "--context=16", "--vocab=50", "--rounds=2", "--device=cpu"]


def test_training_steps_side_by_side(capsys, monkeypatch):
    pytest.importorskip("transformers")
    printed = rows(training.main, capsys, monkeypatch, *TOY, "--batch=2", "--transformers")
    assert [line.split()[0] for line in printed[-2:]] == ["gpt_lightning", "transformers"]
    assert all("MFU" in line for line in printed[-2:])


@pytest.mark.parametrize("tied", [True, False])
def test_peers_have_as_many_parameters_and_their_own_loss(tied):
    """They would be no peers if they computed something else."""
    transformers = pytest.importorskip("transformers")
    config = GPTConfig(n_layer=1, n_head=2, d_model=16, context_length=16, vocab_size=50, tie_weights=tied)
    network = peers.huggingface_network(config)
    assert isinstance(network, transformers.GPT2LMHeadModel)
    assert sum(p.numel() for p in network.parameters()) == GPT(config).parameter_count()
    tokens = random_tokens(2, 16) % 50
    theirs = network(tokens, labels=tokens).loss
    assert peers.huggingface_loss(network, tokens[:, :-1], tokens[:, 1:]).item() == pytest.approx(
        theirs.item(), rel=1e-5
    )


def test_decoding_side_by_side(capsys, monkeypatch):
    pytest.importorskip("transformers")
    printed = rows(decoding.main, capsys, monkeypatch, *TOY, "--prompt=3", "--new=5", "--transformers")
    assert [line.split()[0] for line in printed[2:4]] == ["gpt_lightning", "transformers"]
    assert printed[4].startswith("The first token takes")


def test_feeding_side_by_side(capsys, monkeypatch):
    printed = rows(feeding.main, capsys, monkeypatch, "--batch=2", "--context=8", "--tokens=2000", "--batches=5")
    assert [line.split()[0] for line in printed[2:]] == ["gpt_lightning", "nanoGPT's", "torch"]


def test_what_is_fed_is_alike():
    tokens = np.arange(1000, dtype=np.uint16)
    for inputs, targets in (next(feeding.sliced(tokens, 8, 4)), feeding.Blocks(tokens, 8)[3]):
        assert inputs.shape[-1] == 8
        assert torch.equal(targets, inputs + 1)


@pytest.mark.parametrize("loss", ["chunks", "all logits"])
def test_a_pass_whose_memory_is_measured(loss):
    meter = Meter(on_gpu=False)
    loss_memory.forward_and_backward(GPTConfig(1, 2, 16, 16, vocab_size=50), 2, loss, "cpu", meter)
    meter.end()
    assert meter.seconds > 0


@pytest.mark.parametrize("way", ["forward", "scan", "keep T × T"])
def test_a_scan_whose_memory_is_measured(way):
    meter = Meter(on_gpu=False)
    scan_statistics.look(GPTConfig(1, 2, 16, 64, vocab_size=256), 2, way, "cpu", meter)
    meter.end()
    assert meter.seconds > 0


def test_both_ways_of_tokenising_give_the_same(tmp_path):
    text = tmp_path / "text.txt"
    assert tokenising.repeat("pydoc", 30_000, text) == 30_000
    tokenising.all_cores(text, "bytes", tmp_path / "ours", Meter(on_gpu=False))
    tokenising.one_thread(text, "bytes", tmp_path / "theirs", Meter(on_gpu=False))
    (directory,) = (tmp_path / "ours" / "tokens").glob("text*")
    ours = np.concatenate([np.fromfile(directory / f"{split}_000000.bin", np.uint16) for split in SPLITS])
    assert ours.tobytes() == np.fromfile(tmp_path / "theirs", np.uint16).tobytes()


@pytest.mark.parametrize("kind", [[], ["--jsonl"]])
def test_a_text_of_any_size_is_prepared_and_opened(tmp_path, monkeypatch, capsys, kind):
    arguments = ["--gigabytes", "0.001", "--tokenizer", "bytes", "--directory", str(tmp_path), *kind]
    monkeypatch.setattr(sys, "argv", ["preparing", *arguments])
    preparing.main()
    found = re.search(r"memory +([\d,]+) MB .*\nopened +([\d,]+) tokens", capsys.readouterr().out)
    memory, tokens = (int(number.replace(",", "")) for number in found.groups())
    assert 50 < memory < 2_000
    assert 900_000 < tokens < 1_400_000  # 90 % of the bytes of a megabyte and of what one repetition is too many


def test_a_run_and_a_bare_loop_are_measured(tmp_path):
    assert measured(framework_cost.through_train_py, str(tmp_path), 5)[0] > 0
    meter = Meter(on_gpu=False)
    framework_cost.bare_loop(str(tmp_path), 5, meter)
    assert meter.seconds > 0


def test_the_largest_batch_is_found_between_one_that_fits_and_one_that_does_not(monkeypatch, capsys):
    config = GPTConfig(1, 2, 16, 16, vocab_size=50)
    monkeypatch.setattr(largest_batch, "measured", lambda work, config, batch, *_, device: (0.0, 100.0 * batch))
    assert largest_batch.largest_within(1.15e9, config, "32-true", "cpu") == 11
    assert largest_batch.largest_within(0.05e9, config, "32-true", "cpu") == 0


def test_two_steps_whose_memory_is_measured():
    meter = Meter(on_gpu=False)
    largest_batch.two_steps(GPTConfig(1, 2, 16, 16, vocab_size=50), 2, "32-true", "cpu", meter)
    assert meter.seconds > 0


def test_the_loss_of_a_whole_split():
    uniform = recipe.whole_split_loss(lambda x, _: torch.zeros(*x.shape, 50), torch.arange(40), context=8)
    assert uniform == pytest.approx(math.log(50))


def test_without_nanogpt_the_message_says_what_it_takes(tmp_path):
    with pytest.raises(UserError, match="--nanogpt takes a checkout of "):
        peers.nanogpt_network(Path(tmp_path), GPTConfig(1, 2, 16, 16, vocab_size=50))

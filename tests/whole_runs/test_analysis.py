"""analyze.py and generate.py as a user runs them: on a checkpoint alone, with no training data present."""

import json
import random
import re
import shutil
import struct
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cli.analysis import sequences_to_scan
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.data.tokenizer import load_tokenizer, tokenizer_state
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from gpt_lightning.model import GPT, GPTConfig
from tests.command_line import TINY, command, environment, run
from tests.conftest import REPO


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, corpus_file) -> Path:
    """A checkpoint that train.py wrote, moved away from its run and its data."""
    directory = tmp_path_factory.mktemp("trained")
    result = run("train.py", "fit", *TINY, "--trainer.max_steps=40", "--data.corpus", corpus_file, cwd=directory)
    assert result.returncode == 0, result.stderr
    moved = tmp_path_factory.mktemp("moved") / "my.ckpt"
    shutil.move(directory / "runs/default/version_0/checkpoints/last.ckpt", moved)
    shutil.rmtree(directory)
    return moved


@pytest.fixture(scope="module")
def knows_words(tmp_path_factory, corpus_file) -> Path:
    """The checkpoint of a network that has learnt the corpus, and whose second layer's attention is dead."""
    torch.manual_seed(0)
    config = GPTConfig(n_layer=2, n_head=2, d_model=32, context_length=32, vocab_size=256)
    gpt, text = GPT(config), torch.tensor(list(corpus_file.read_bytes()))
    for parameter in gpt.blocks[1].attention.output.parameters():
        parameter.requires_grad_(False).zero_()
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2)
    for _ in range(60):
        batch = text[torch.randint(len(text) - 32, (32, 1)) + torch.arange(33)]
        F.cross_entropy(gpt(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    content = {
        "hyper_parameters": {"gpt": asdict(config)},
        "state_dict": {f"model.{name}": weight for name, weight in gpt.state_dict().items()},
        "TextDataModule": {
            "tokenizer": tokenizer_state(load_tokenizer("bytes")),
            "validation_sequences": text[-256:].view(8, 32).int(),
        },
        "global_step": 60,
    }
    path = tmp_path_factory.mktemp("words") / "words.ckpt"
    torch.save(content, path)
    del content["TextDataModule"]["validation_sequences"]
    torch.save(content, path.with_name("without_text.ckpt"))
    return path


def test_analyze_writes_what_the_contract_says(main, checkpoint, tmp_path):
    status, out, err = main("analyze.py", "--checkpoint", checkpoint, "--output", tmp_path / "out")
    assert status == 0, err
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {
        "depth_scan.json",
        "depth_scan.png",
        "report.html",
        "ablation.png",
        "entropy_over_time.png",
        "logit_lens.png",
        "similarity.png",
        "attention/heads_of_note.png",
        "attention/layer_00.png",
        "attention/layer_01.png",
    }
    assert "4 heads in 2 layers" in out
    assert "without it the loss changes by" in out
    scan = json.loads((tmp_path / "out/depth_scan.json").read_text(), parse_constant=pytest.fail)
    assert len(scan["layers"]) == 2
    for layer in scan["layers"]:
        assert {"block_influence", "residual_norm"} <= set(layer) & set(scan["units"])
        for head in layer["heads"]:
            metrics = {"entropy", "normalized_entropy", "first_position_mass", "stripe", "local_mass", "previous_token"}
            assert metrics <= set(head) & set(scan["units"])
            assert head["verdict"]
            assert head["ablation"]["effect"] in ("needed", "no effect", "harmful", "unclear")
    for picture in (tmp_path / "out").rglob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_report_needs_nothing_but_itself(main, checkpoint, tmp_path):
    # A text with a token that would be markup if it were not escaped.
    (tmp_path / "text.txt").write_text("<script>alert(1)</script> & so on\n" * 20)
    args = ("--checkpoint", checkpoint, "--output", tmp_path, "--text", tmp_path / "text.txt", "--no-ablation")
    assert main("analyze.py", *args)[0] == 0
    page = (tmp_path / "report.html").read_text()

    class Links(HTMLParser):
        links: list = []  # noqa: RUF012
        tags: list = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            self.tags.append(tag)
            self.links += [value for name, value in attributes if name in ("src", "href")]

    parser = Links()
    parser.feed(page)
    assert parser.links
    assert all(link.startswith("data:image/png;base64,") for link in parser.links)
    assert parser.tags.count("script") == 2  # the project's own, for the text to point at: data and program
    assert "alert(1)" not in "".join(re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL))
    assert page.index('class="summary healthy"') < page.index("<img") < page.rindex("<table")
    assert not re.search(r"@import|url\(", page)


def test_analyze_finds_its_way_without_output_or_text(main, checkpoint, tmp_path):
    run_dir = tmp_path / "runs/x/version_3"
    (run_dir / "checkpoints").mkdir(parents=True)
    shutil.copy(checkpoint, run_dir / "checkpoints/last.ckpt")
    status, _, err = main("analyze.py", "--checkpoint", "runs/x/version_3/checkpoints/last.ckpt")
    assert status == 0, err
    assert (run_dir / "analysis/report.html").is_file()
    assert "validation text" in (run_dir / "analysis/report.html").read_text()


def test_two_checkpoints_side_by_side(main, checkpoint, tmp_path):
    args = ("--checkpoint", checkpoint, "--compare", checkpoint, "--output", tmp_path, "--no-ablation")
    status, out, err = main("analyze.py", *args)
    assert status == 0, err
    assert f"B: {checkpoint}, loss " in out
    result = json.loads((tmp_path / "depth_scan.json").read_text())
    other = result["compared_with"]
    assert other["cross_entropy"] == pytest.approx(result["cross_entropy"])
    assert other["same_tokens"]
    for ours, theirs in zip(result["layers"], other["layers"], strict=True):
        for one, same in zip(ours["heads"], theirs["heads"], strict=True):
            assert one["entropy"] == pytest.approx(same["entropy"])
    assert (tmp_path / "comparison.png").is_file()
    assert "Compared, layer by layer" in (tmp_path / "report.html").read_text()


def test_the_scans_of_the_run_confirm_what_a_checkpoint_shows(main, checkpoint, corpus_file, tmp_path):
    """A layer dies after training: one scan is a suspicion, and one more in the run's history makes it certain."""
    content = torch.load(checkpoint, weights_only=True)
    for name in ("attention.output.weight", "attention.output.bias", "mlp.down.weight", "mlp.down.bias"):
        content["state_dict"][f"model.blocks.1.{name}"].zero_()
    history = content["callbacks"]["DepthScan"]["history"]
    assert [scan["step"] for scan in history] == [20, content["global_step"]]
    dead = deepcopy(history[0])
    dead["layers"][1]["block_influence"] = 0.0
    # The scan of the checkpoint's own step is no second one beside that of analyze.py.
    history[1] = dead | {"step": content["global_step"]}
    torch.save(content, tmp_path / "killed.ckpt")
    history[:] = [dead]
    torch.save(content, tmp_path / "dead_for_long.ckpt")

    def analysed(name: str, *more: object) -> dict:
        status, _, err = main("analyze.py", "--checkpoint", name, "--output", "out", "--no-ablation", *more)
        assert status == 0, err
        return json.loads((tmp_path / "out/depth_scan.json").read_text())

    for name, label, health in (("killed", "dead layer?", "suspect"), ("dead_for_long", "dead layer", "sick")):
        result = analysed(f"{name}.ckpt")
        assert (result["verdict"], result["layers"][1]["verdict"]) == (health, label)
        assert (tmp_path / "out/entropy_over_time.png").is_file()
    result = analysed("killed.ckpt", "--compare", "dead_for_long.ckpt")
    assert (result["verdict"], result["compared_with"]["verdict"]) == ("suspect", "sick")
    # The run's scans were of another text.
    assert analysed("dead_for_long.ckpt", "--text", corpus_file)["verdict"] == "suspect"


@pytest.mark.parametrize(
    ("name", "text", "foreign"),
    [
        ("words.ckpt", None, False),
        ("words.ckpt", "its own", False),
        ("words.ckpt", "random bytes", True),
        ("without_text.ckpt", None, True),  # on Python's documentation
    ],
)
def test_a_text_that_the_network_does_not_know_is_called_foreign_and_confirms_no_alarm(
    main, knows_words, corpus_file, tmp_path, name, text, foreign
):
    (tmp_path / "random.bin").write_bytes(random.Random(0).randbytes(20_000))
    given = {None: [], "its own": ["--text", corpus_file], "random bytes": ["--text", "random.bin"]}[text]
    status, out, err = main("analyze.py", "--checkpoint", knows_words.with_name(name), "--output", "out", *given)
    assert status == 0, err
    result = json.loads((tmp_path / "out/depth_scan.json").read_text())
    caution = "This text is foreign to the network: its loss of "
    for place in (out, (tmp_path / "out/report.html").read_text(), result["caution"]):
        assert (caution in place) == foreign
    # That ablation changes nothing proves the alarm, but not on a text of which the network makes nothing anyway.
    assert [alarm["kind"] for alarm in result["alarms"] if alarm["confirmed"]] == (
        [] if foreign else ["dead attention"]
    )
    assert ("dead attention?" in [alarm["label"] for alarm in result["alarms"]]) == foreign
    assert result["verdict"] == ("suspect" if foreign else "sick")


def test_without_pythons_documentation_a_network_without_text_needs_one(knows_words, tmp_path):
    script = "import runpy, sys; sys.modules['pydoc_data'] = None; sys.argv = sys.argv[1:]\n"
    script += "runpy.run_path(sys.argv[0], run_name='__main__')"
    analyze = [sys.executable, "-c", script, "analyze.py", "--checkpoint", knows_words.with_name("without_text.ckpt")]
    ended = subprocess.run(analyze, cwd=REPO, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "error: This Python comes without its documentation (pydoc_data): give a --text.\n"


def test_a_text_that_repeats_itself_is_one_sequence(checkpoint, tmp_path):
    (tmp_path / "same.txt").write_text("a" * 1000)
    (tmp_path / "other.txt").write_text("a" * 32 + "b" * 32 + "a" * 32)
    loaded = load_checkpoint(checkpoint)
    assert sequences_to_scan(loaded, tmp_path / "same.txt")[0].shape == (1, 32)
    assert sequences_to_scan(loaded, tmp_path / "other.txt")[0].shape == (2, 32)


def test_long_contexts_get_pooled_pictures(main, tmp_path, corpus_file):
    torch.manual_seed(0)
    config = GPTConfig(n_layer=1, n_head=2, d_model=16, context_length=300, vocab_size=256)
    content = {
        "hyper_parameters": {"gpt": asdict(config)},
        "state_dict": {f"model.{name}": weight for name, weight in GPT(config).state_dict().items()},
        "TextDataModule": {"tokenizer": tokenizer_state(load_tokenizer("bytes"))},
        "global_step": 7,
    }
    torch.save(content, tmp_path / "long.ckpt")
    args = ("--checkpoint", "long.ckpt", "--output", tmp_path, "--text", corpus_file, "--no-ablation")
    status, _, err = main("analyze.py", *args)
    assert status == 0, err
    png = (tmp_path / "attention/layer_00_pooled.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert 300 < width <= 1600
    assert 200 < height <= 1200


def test_a_checkpoint_carries_the_sequences_that_training_scanned(checkpoint, corpus_file, tmp_path):
    data = TextDataModule(str(corpus_file), context_length=32, data_dir=str(tmp_path))
    data.prepare_data()
    data.setup()
    kept = torch.load(checkpoint, weights_only=True)["TextDataModule"]["validation_sequences"]
    assert torch.equal(kept.long(), data.validation_sequences(8))


def test_generate_continues_the_prompt_the_same_way_for_the_same_seed(main, checkpoint, tmp_path):
    args = ("--checkpoint", checkpoint, "--prompt", "the cat", "--seed", 3)
    first = run("generate.py", *args, cwd=tmp_path)
    again = main("generate.py", *args)[1]
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("the cat")
    assert len(first.stdout) > len("the cat\n")
    assert first.stdout == again


def test_prompts_from_a_file_from_standard_input_and_as_they_are_typed(main, checkpoint, tmp_path):
    args = ("--checkpoint", checkpoint, "--seed", 3, "--tokens", 9)
    (tmp_path / "prompt.txt").write_bytes("the c\xe4t\n".encode())

    def generated(*more, given):
        done = subprocess.run(command("generate.py", *args, *more), input=given, capture_output=True, env=environment())
        assert done.returncode == 0, done.stderr.decode()
        assert b" tokens, " in done.stderr
        return done.stdout

    expected = main("generate.py", *args, "--prompt", "the c\xe4t\n")[1].encode()
    assert expected.startswith("the c\xe4t\n".encode())
    assert main("generate.py", *args, "--prompt_file", tmp_path / "prompt.txt")[1].encode() == expected
    assert generated("--prompt_file", "-", given="the c\xe4t\n".encode()) == expected
    typed = generated("--interactive", given=b"the cat\n\nthe rat\n")
    assert typed.count(b"> ") == 4
    assert b"> the cat" in typed
    assert b"> the rat" in typed


def test_several_samples_differ_and_the_first_is_not_printed_alone(main, checkpoint):
    status, output, errors = main("generate.py", "--checkpoint", checkpoint, "--samples", 3, "--prompt", "the ")
    assert status == 0, errors
    first, second, third = (part.split("\n", 1)[1].strip() for part in output.split("--- ")[1:])
    assert len({first, second, third}) == 3
    assert all(text.startswith("the ") for text in (first, second, third))


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("analyze.py", ["--checkpoint=nowhere.ckpt"], "There is no checkpoint at nowhere.ckpt"),
        ("analyze.py", ["--checkpoint=truncated.ckpt"], "truncated or damaged"),
        ("analyze.py", ["--checkpoint=my.ckpt", "--compare=nowhere.ckpt"], "There is no checkpoint at nowhere.ckpt"),
        ("analyze.py", ["--checkpoint=my.ckpt", "--text=nowhere.txt"], "nowhere.txt can't be read"),
        ("analyze.py", ["--checkpoint=my.ckpt", "--text=empty.txt"], "empty.txt holds 0 tokens"),
        ("analyze.py", ["--checkpoint=my.ckpt", "--output=empty.txt"], "empty.txt"),
        ("analyze.py", ["--checkpoint=my.ckpt", "--outptu=x"], "unrecognized arguments"),
        ("analyze.py", ["--checkpoint=my.ckpt", "--device=cuda"], "no CUDA GPU"),
        ("generate.py", ["--checkpoint=nowhere.ckpt"], "There is no checkpoint at nowhere.ckpt"),
        ("generate.py", ["--checkpoint=pickle.ckpt"], "more than plain data"),
        ("generate.py", ["--checkpoint=mismatch.ckpt"], "don't fit"),
        ("generate.py", ["--checkpoint=my.ckpt", "--prompt="], "The prompt is empty"),
        ("generate.py", ["--checkpoint=my.ckpt", "--prompt=" + "x" * 40], "40 tokens long"),
        ("generate.py", ["--checkpoint=my.ckpt", "--prompt=x", "--tokens=99"], "at most 31"),
        ("generate.py", ["--checkpoint=my.ckpt", "--tokens=-1"], "at least 1"),
        ("generate.py", ["--checkpoint=my.ckpt", "--top_p=0"], "0 is out of range: it must be above 0 and at most 1"),
        ("generate.py", ["--checkpoint=my.ckpt", "--min_p=1.5"], "1.5 is out of range: it must be above 0 and at"),
        ("generate.py", ["--checkpoint=my.ckpt", "--repetition_penalty=0"], "it must be from 0.01 to 100"),
        ("generate.py", ["--checkpoint=my.ckpt", "--stop="], "an empty text would end the continuation at once"),
        ("generate.py", ["--checkpoint=my.ckpt", "--prompt_file=nowhere.txt"], "nowhere.txt can't be read"),
        ("generate.py", ["--checkpoint=my.ckpt", "--temperature=nan"], "temperature"),
    ],
)
def test_bad_input_is_one_sentence_and_a_failure(main, checkpoint, tmp_path, script, args, message):
    if "--device=cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    shutil.copy(checkpoint, tmp_path / "my.ckpt")
    (tmp_path / "truncated.ckpt").write_bytes(checkpoint.read_bytes()[:30_000])
    (tmp_path / "empty.txt").touch()
    torch.save({"an object": Path("not plain data")}, tmp_path / "pickle.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["gpt"]["d_model"] = 32
    torch.save(content, tmp_path / "mismatch.ckpt")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    status, _, err = main(script, *args)
    assert status in (1, 2)
    error = err.strip().splitlines()[-1]
    assert "error: " in error
    assert message in error
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

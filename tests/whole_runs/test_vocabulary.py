"""How many ids a network has: the tokenizer's, rounded up; and that nobody meets those on top, which are no tokens."""

import base64
from pathlib import Path

import pytest
import torch
import yaml

import callbacks
from cli.analysis import analyse
from gpt_lightning.checkpoints.load import LoadedCheckpoint
from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.decoding.options import Sampling
from gpt_lightning.decoding.text_generation import generate_text
from gpt_lightning.interop import save_huggingface
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from gpt_lightning.interpret.draw import plots
from gpt_lightning.model import GPT, GPTConfig
from tests.command_line import TINY

N_IDS, PADDED = 260, 320
LAST = Path("runs/default/version_0/checkpoints/last.ckpt")


@pytest.fixture
def options(tmp_path, corpus_file) -> list[str]:
    """Of train.py: a tokenizer of all bytes, three merges and the end of a text."""
    pieces = [bytes([byte]) for byte in range(256)] + [b"th", b"at", b" a"]
    lines = (f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(pieces))
    (tmp_path / "small.tiktoken").write_text("".join(lines))
    quiet = ["--trainer.max_steps=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    return [*TINY, f"--data.corpus={corpus_file}", "--data.tokenizer=small.tiktoken", *quiet]


def vocabulary() -> int:
    """Of the network in the checkpoint of the run."""
    return load_checkpoint(LAST).model.config.vocab_size


def test_a_run_has_the_ids_of_its_tokenizer_rounded_up(main, options, tmp_path):
    status, _, err = main("train.py", "fit", *options)
    assert status == 0, err
    assert vocabulary() == PADDED
    # The configuration beside the run may be taken for another tokenizer.
    config = "runs/default/version_0/config.yaml"
    assert yaml.safe_load(Path(config).read_text())["model"]["gpt"]["vocab_size"] == 0
    status, _, err = main("train.py", "fit", "--config", config, "--data.tokenizer=bytes", "--experiment=other")
    assert status == 0, err
    assert load_checkpoint("runs/other/version_0/checkpoints/last.ckpt").model.config.vocab_size == 256


def test_checkpoints_that_are_not_rounded_up_go_on(main, options):
    """Those from before it was done: the number given is the number had, and nobody has to give it again."""
    status, _, err = main("train.py", "fit", *options, f"--model.gpt.vocab_size={N_IDS}")
    assert status == 0, err
    assert vocabulary() == N_IDS
    for subcommand, more in (("fit", "--trainer.max_steps=3"), ("validate", ""), ("test", "")):
        status, out, err = main("train.py", subcommand, *options, "--ckpt_path=last", *filter(None, [more]))
        assert status == 0, err
        assert subcommand != "fit" or "resumed at step 2" in out
    loaded = torch.load(LAST, weights_only=True)
    assert loaded["global_step"] == 3
    assert vocabulary() == N_IDS
    for script, more in (("analyze.py", "--no-ablation"), ("generate.py", "--tokens=3")):
        status, _, err = main(script, "--checkpoint", LAST, more)
        assert status == 0, err


@pytest.mark.parametrize("n_ids", [PADDED + 1, 400])
def test_any_larger_number_can_be_asked_for(main, options, n_ids):
    status, _, err = main("train.py", "fit", *options, f"--model.gpt.vocab_size={n_ids}")
    assert status == 0, err
    assert vocabulary() == n_ids
    status, _, err = main("train.py", "validate", "--config=runs/default/version_0/config.yaml", "--ckpt_path=last")
    assert status == 0, err
    status, _, err = main("train.py", "validate", *options, "--ckpt_path=last")
    assert f"vocab_size {n_ids} (not {PADDED})" in err


@pytest.mark.parametrize("n_ids", ["259", "1"])
def test_fewer_ids_than_tokens_are_refused(main, options, n_ids):
    status, _, err = main("train.py", "fit", *options, f"--model.gpt.vocab_size={n_ids}")
    assert status == 1
    assert err.startswith(f"error: model.gpt.vocab_size is {n_ids}, but tokenizer 'small.tiktoken' has 260 ids")
    assert not Path("runs").exists()


def test_fewer_ids_than_none_are_refused(main, options):
    status, _, err = main("train.py", "fit", *options, "--model.gpt.vocab_size=-1")
    assert status == 2
    assert "-1 is out of range: it must be at least 0" in err
    assert not Path("runs").exists()


@pytest.mark.parametrize("n_ids", [N_IDS, PADDED])
def test_a_network_to_begin_with_keeps_its_size(main, options, n_ids):
    save_huggingface(GPT(GPTConfig(1, 2, 16, 32, n_ids)), "theirs", load_tokenizer("small.tiktoken"))
    for more in (["--trainer.max_steps=2"], ["--trainer.max_steps=3", "--ckpt_path=last"]):
        status, _, err = main("train.py", "fit", *options, "--model.init_from=theirs", *more)
        assert status == 0, err
        assert vocabulary() == n_ids


# ---- where an id without a token is the likeliest


@pytest.fixture
def loaded(main, options) -> LoadedCheckpoint:
    """A run that gives id 300 by far the highest logit, whatever it reads, at every depth."""
    status, _, err = main("train.py", "fit", *options)
    assert status == 0, err
    content = torch.load(LAST, weights_only=True)
    weights = content["state_dict"]
    weights["model.norm.bias"] += 3
    weights["model.token_embedding.weight"][300:301] += 3
    weights["model.head.weight"] = weights["model.token_embedding.weight"]
    torch.save(content, LAST)
    loaded = load_checkpoint(LAST)
    tokens = loaded.validation_sequences
    with torch.no_grad():
        assert (loaded.model(tokens).argmax(-1) == 300).all()
    return loaded


def greedy(loaded: LoadedCheckpoint, prompt: str, n: int) -> str:
    """The likeliest tokens, one by one, of those that are tokens."""
    tokens = loaded.encoding.encode(prompt)
    for _ in range(n):
        with torch.no_grad():
            token = loaded.model(torch.tensor([tokens]))[0, -1, :N_IDS].argmax().item()
        if token == loaded.encoding.eot_token:
            break
        tokens.append(token)
    return loaded.encoding.decode(tokens)


def test_it_is_never_written(main, loaded):
    expected = greedy(loaded, "the cat", 12)
    assert len(expected) > len("the cat")
    status, out, err = main(
        "generate.py", "--checkpoint", LAST, "--prompt=the cat", "--tokens=12", "--temperature=0", "--device=cpu"
    )
    assert status == 0, err
    assert out == f"{expected}\n"
    assert callbacks.sample(loaded.model, loaded.encoding, "the cat", 12, temperature=0) == expected
    # Sampled, an id that is no token would be 12 times nothing.
    sampled = "".join(generate_text(loaded.model, loaded.encoding, "the cat", Sampling(temperature=0.01), 12))
    assert sampled


def test_it_is_no_guess_of_the_logit_lens_and_named_nowhere(loaded, monkeypatch):
    drawn, draw = [], plots.logit_lens_figure
    monkeypatch.setattr(plots, "logit_lens_figure", lambda *figures: drawn.append(figures) or draw(*figures))
    result, _, written = analyse(LAST, None, None, "cpu", None, False, None)
    assert result.lens.top_tokens.max() < N_IDS
    ((_, _, _, guesses, _),) = drawn
    assert guesses
    assert not any(label.startswith("<") and label != "<|endoftext|>" for row in guesses for label in row)
    for path in written:
        if path.suffix != ".png":
            assert "<300>" not in path.read_text().replace("&lt;", "<").replace("&gt;", ">")

"""The size of the vocabulary: the tokenizer's, rounded up; and ids that stand for no token are shown nowhere."""

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
from tests.whole_runs.conftest import LAST, RUN, ranks, step_of

N_IDS, PADDED = 260, 320


@pytest.fixture
def options(tmp_path, corpus_file) -> list[str]:
    """Options of train.py, with a tokenizer of all bytes, three merges and `<|endoftext|>`."""
    (tmp_path / "small.tiktoken").write_bytes(ranks(b"th", b"at", b" a"))
    quiet = ["--trainer.max_steps=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    return [*TINY, f"--data.corpus={corpus_file}", "--data.tokenizer=small.tiktoken", *quiet]


def vocabulary() -> int:
    """The vocabulary size of the network in the run's checkpoint."""
    return load_checkpoint(LAST).model.config.vocab_size


def test_a_run_has_the_ids_of_its_tokenizer_rounded_up(must_work, options, tmp_path):
    must_work("train.py", "fit", *options)
    assert vocabulary() == PADDED
    # The configuration beside the run may be taken for another tokenizer.
    config = RUN / "config.yaml"
    assert yaml.safe_load(config.read_text())["model"]["gpt"]["vocab_size"] == 0
    must_work("train.py", "fit", "--config", config, "--data.tokenizer=bytes", "--experiment=other")
    assert load_checkpoint("runs/other/version_0/checkpoints/last.ckpt").model.config.vocab_size == 256


def test_checkpoints_that_are_not_rounded_up_go_on(must_work, options):
    """Older versions did not round up. A network keeps its size, and nobody has to give it again."""
    must_work("train.py", "fit", *options, f"--model.gpt.vocab_size={N_IDS}")
    assert vocabulary() == N_IDS
    for subcommand, more in (("fit", "--trainer.max_steps=3"), ("validate", ""), ("test", "")):
        out, _ = must_work("train.py", subcommand, *options, "--ckpt_path=last", *filter(None, [more]))
        assert subcommand != "fit" or "resumed at step 2" in out
    assert step_of(LAST) == 3
    assert vocabulary() == N_IDS
    for script, more in (("analyze.py", "--no-ablation"), ("generate.py", "--tokens=3")):
        must_work(script, "--checkpoint", LAST, more)


@pytest.mark.parametrize("n_ids", [PADDED + 1, 400])
def test_any_larger_number_can_be_asked_for(main, must_work, options, n_ids):
    must_work("train.py", "fit", *options, f"--model.gpt.vocab_size={n_ids}")
    assert vocabulary() == n_ids
    must_work("train.py", "validate", f"--config={RUN / 'config.yaml'}", "--ckpt_path=last")
    status, _, err = main("train.py", "validate", *options, "--ckpt_path=last")
    assert status == 1
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
def test_a_network_to_begin_with_keeps_its_size(must_work, options, n_ids):
    save_huggingface(GPT(GPTConfig(1, 2, 16, 32, n_ids)), "theirs", load_tokenizer("small.tiktoken"))
    for more in (["--trainer.max_steps=2"], ["--trainer.max_steps=3", "--ckpt_path=last"]):
        must_work("train.py", "fit", *options, "--model.init_from=theirs", *more)
        assert vocabulary() == n_ids


# ---- where an id without a token is the likeliest


@pytest.fixture
def loaded(must_work, options) -> LoadedCheckpoint:
    """A run whose network gives id 300 by far the highest logit, whatever it reads, at every depth."""
    must_work("train.py", "fit", *options)
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
    """Append the likeliest id that stands for a token, `n` times; returns the text."""
    tokens = loaded.encoding.encode(prompt)
    for _ in range(n):
        with torch.no_grad():
            token = loaded.model(torch.tensor([tokens]))[0, -1, :N_IDS].argmax().item()
        if token == loaded.encoding.eot_token:
            break
        tokens.append(token)
    return loaded.encoding.decode(tokens)


def test_it_is_never_written(must_work, loaded):
    expected = greedy(loaded, "the cat", 12)
    assert len(expected) > len("the cat")
    out, _ = must_work(
        "generate.py", "--checkpoint", LAST, "--prompt=the cat", "--tokens=12", "--temperature=0", "--device=cpu"
    )
    assert out == f"{expected}\n"
    assert callbacks.sample(loaded.model, loaded.encoding, "the cat", 12, temperature=0) == expected
    # An id without a token decodes to nothing: twelve of them would leave the text empty.
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

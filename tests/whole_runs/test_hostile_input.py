"""Options, configuration files and prompts by the hundred: each works, or fails with one sentence."""

import math
import os
import string
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from gpt_lightning.data.tokenizer import load_tokenizer, tokenizer_state
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.module import GPTModule
from tests.command_line import TINY, run


def examples(number: int) -> settings:
    """The same examples in every run, all with one `main`; failing ones are not shrunk, which would take minutes."""
    phases = [Phase.explicit, Phase.generate]
    health = list(HealthCheck)
    return settings(max_examples=number, deadline=None, derandomize=True, phases=phases, suppress_health_check=health)


OPTIONS = ["seed_everything", "experiment", "runs_dir"]
for section, names in {
    "data": "corpus tokenizer batch_size context_length data_dir seed percents",
    "model.gpt": "n_layer n_head d_model context_length vocab_size dropout bias position norm qk_norm activation "
    "zero_init tie_weights",
    "model": "optimizer learning_rate muon_learning_rate muon_momentum embedding_learning_rate schedule warmup_steps "
    "decay_steps final_learning_rate_fraction weight_decay beta1 compile",
    "trainer": "max_steps max_epochs max_time accumulate_grad_batches gradient_clip_val gradient_clip_algorithm "
    "val_check_interval check_val_every_n_epoch limit_train_batches limit_val_batches overfit_batches "
    "log_every_n_steps precision accelerator devices num_nodes strategy callbacks logger profiler deterministic",
    "depth_scan": "n_sequences every_n_validations on_alarm",
    "attention_heatmaps": "max_tokens",
    "text_samples": "prompt max_new_tokens temperature",
    "last_checkpoint": "every_n_train_steps",
}.items():
    OPTIONS += [f"{section}.{name}" for name in names.split()]
OPTIONS += ["ckpt_path", "config"]
VALUES = ["", "0", "-1", "1", "3", "0.5", "nan", "inf", "-inf", "1e999", "1e-400", "null", "true", "[1", "{", "a: b: c"]
VALUES += ["x", "…", "\u202e", "/", ".", "..", "/dev/null", "/dev/full", "1" * 30, "[]", "{}", "[1, 2]", "None"]
VALUES += ["!!python/x y"]
NAMES = ["model", "gpt", "n_layer", "trainer", "callbacks", "class_path", "init_args", "data", "x", "config"]


def fails_clearly(status: int, err: str) -> bool:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    return status in (1, 2) and len(lines) == 1 and "Traceback" not in err and len(lines[0]) < 1000


@examples(40)
@given(st.sampled_from(OPTIONS), st.sampled_from(VALUES))
@example("trainer.max_time", "00:00:00:00")
def test_any_value_of_any_option_works_or_is_one_sentence(main, corpus_file, option, value):
    few = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false"]
    status, _, err = main("train.py", "fit", *TINY, *few, f"--data.corpus={corpus_file}", f"--{option}={value}")
    assert status == 0 or fails_clearly(status, err), (status, err)


@examples(25)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
            max_leaves=8,
        ).map(lambda value: yaml.safe_dump(value).encode()),
    )
)
@example(b"model: {learning_rate: 0.5}\n")
@example(b"model:\n\tlearning_rate: 0.5\n")
@example(b"a: &a [*a, *a]\n")
@example(b"!!python/object/apply:os.system ['touch executed']\n")
def test_any_file_given_as_configuration_works_or_is_one_sentence(main, content):
    Path("hostile.yaml").write_bytes(content)
    status, _, err = main("train.py", "fit", "--config", "hostile.yaml", "--print_config")
    assert status == 0 or fails_clearly(status, err), (status, err)
    assert not Path("executed").exists()


@examples(300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "n_layer": st.integers(-2, 3),
            "n_head": st.integers(-2, 5),
            "d_model": st.integers(-2, 24),
            "context_length": st.integers(-2, 20),
            "vocab_size": st.integers(-2, 40),
            "dropout": st.floats() | st.floats(-0.1, 1.1),
            "position": st.sampled_from(["learned", "rope", "alibi", ""]),
            "norm": st.sampled_from(["layer", "rms", "batch"]),
            "qk_norm": st.booleans(),
            "activation": st.sampled_from(["gelu", "relu_squared", "tanh"]),
            "zero_init": st.booleans(),
            "tie_weights": st.booleans(),
            "bias": st.booleans(),
        },
    )
)
def test_a_network_is_refused_by_its_config_or_it_works(options):
    sizes = {"n_layer": 1, "n_head": 2, "d_model": 8, "context_length": 6, "vocab_size": 11} | options
    try:
        config = GPTConfig(**sizes)
    except ValueError:
        return
    gpt = GPT(config).eval()
    with torch.no_grad():
        logits = gpt(torch.zeros(1, config.context_length, dtype=torch.long))
    assert logits.shape == (1, config.context_length, config.vocab_size)
    assert logits.isfinite().all()


@examples(300)
@given(
    learning_rate=st.floats(),
    muon_learning_rate=st.floats(),
    muon_momentum=st.floats() | st.floats(0, 1),
    embedding_learning_rate=st.none() | st.floats(),
    warmup_steps=st.integers(-2, 2),
    decay_steps=st.none() | st.integers(-2, 2),
    final_learning_rate_fraction=st.floats() | st.floats(-0.1, 1.1),
    weight_decay=st.floats(),
    beta1=st.floats() | st.floats(0, 1),
    beta2=st.floats() | st.floats(0, 1),
)
def test_the_optimiser_takes_only_numbers_it_can_use(**options):
    in_range = (
        0 < options["learning_rate"] < math.inf
        and 0 < options["muon_learning_rate"] < math.inf
        and 0 <= options["muon_momentum"] < 1
        and (options["embedding_learning_rate"] is None or 0 < options["embedding_learning_rate"] < math.inf)
        and options["warmup_steps"] >= 0
        and (options["decay_steps"] is None or options["decay_steps"] >= 1)
        and 0 <= options["final_learning_rate_fraction"] <= 1
        and 0 <= options["weight_decay"] < math.inf
        and 0 <= options["beta1"] < 1
        and 0 <= options["beta2"] < 1
    )
    gpt = GPTConfig(n_layer=1, n_head=1, d_model=2, context_length=2, vocab_size=2)
    if in_range:
        GPTModule(gpt, **options)
    else:
        with pytest.raises(UserError):
            GPTModule(gpt, **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of a network that reads bytes."""
    config = GPTConfig(n_layer=1, n_head=2, d_model=8, context_length=24, vocab_size=256)
    content = {
        "hyper_parameters": {"gpt": asdict(config)},
        "state_dict": {f"model.{name}": weight for name, weight in GPT(config).state_dict().items()},
        "TextDataModule": {"tokenizer": tokenizer_state(load_tokenizer("bytes"))},
        "global_step": 1,
    }
    path = tmp_path_factory.mktemp("bytes") / "bytes.ckpt"
    torch.save(content, path)
    return path


@examples(150)
@given(
    # As a shell hands it over: bytes that are not UTF-8 come as surrogates. An argument cannot hold a NUL.
    prompt=st.binary(max_size=40).map(os.fsdecode) | st.text(max_size=30),
    options=st.fixed_dictionaries(
        {},
        optional={
            "tokens": st.sampled_from(["0", "1", "5", "-3", "1" * 30, "x", ""]),
            "temperature": st.sampled_from(["0", "1", "nan", "-1", "inf", "1e-300", "1e300", "x"]),
            "top_k": st.sampled_from(["0", "1", "300", "-1", "1" * 30, ""]),
            "seed": st.sampled_from(["0", "-1", "1" * 30, "0.5"]),
        },
    ),
)
@example(prompt="\ud800", options={})
@example(prompt="\x00\r\n\x1b[2J", options={})
@example(prompt="👩‍👩‍👧 e\u0301 \u202e", options={})
def test_any_prompt_is_continued_or_is_one_sentence(main, checkpoint, prompt, options):
    flags = [f"--{name}={value}" for name, value in options.items()]
    status, out, err = main("generate.py", f"--checkpoint={checkpoint}", f"--prompt={prompt}", *flags)
    if status == 0:
        assert out.startswith(prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    else:
        assert fails_clearly(status, err), (status, err)


def test_a_prompt_that_is_no_utf_8_goes_through_the_terminal(checkpoint, tmp_path):
    """In a process of its own, whose output has to be encoded."""
    result = run("generate.py", "--checkpoint", checkpoint, "--prompt", b"caf\xe9", "--tokens", 3, cwd=tmp_path)
    assert result.returncode == 0 or fails_clearly(result.returncode, result.stderr), result.stderr

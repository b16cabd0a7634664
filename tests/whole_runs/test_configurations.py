"""What the README says about each file in configs/, and about options in general."""

import re

import pytest
import torch
import yaml

from gpt_lightning.model import GPT, GPTConfig
from tests.command_line import TINY, run
from tests.conftest import REPO
from tests.whole_runs.conftest import LAST, QUIET, RUN

CONFIGS = REPO / "configs"


@pytest.fixture
def printed(must_work):
    """Parse a command line; returns the full configuration, as `--print_config` shows it."""

    def run(*args: object) -> dict:
        out, _ = must_work("train.py", "fit", *args, "--print_config")
        return yaml.safe_load(out)

    return run


def config_flags(*names: str) -> list[str]:
    return [f"--config={CONFIGS / name}.yaml" for name in names]


@pytest.mark.parametrize(
    ("names", "vocabulary", "parameters"),
    [
        (["default"], 256, 0.8e6),
        (["shakespeare"], 256, 0.8e6),
        (["shakespeare", "shakespeare-fast"], 256, 0.85e6),  # "the same size"
        (["shakespeare", "shakespeare-gpu"], 256, 10.8e6),
        (["gpt2-small"], 50304, 124_475_904),
        (["gpt2-small"], 50257, 124_439_808),  # as published, with --model.gpt.vocab_size 50257
    ],
)
def test_networks_have_as_many_parameters_as_the_readme_says(printed, names, vocabulary, parameters):
    gpt = printed(*config_flags(*names))["model"]["gpt"] | {"vocab_size": vocabulary}
    with torch.device("meta"):
        count = GPT(GPTConfig(**gpt)).parameter_count()
    assert count == (parameters if parameters > 1e8 else pytest.approx(parameters, abs=5e4))


def test_enwik8_takes_an_hour_and_a_half_in_fp16_with_64_sequences_a_step(printed):
    config = printed(*config_flags("enwik8"))
    assert config["trainer"]["max_time"] == "00:01:30:00"
    assert config["trainer"]["precision"] == "16-mixed"
    assert config["trainer"]["accumulate_grad_batches"] * config["data"]["batch_size"] == 64


def test_a_bare_command_trains_the_default_without_a_network(must_work, no_network, tmp_path):
    out, _ = must_work("train.py", *TINY, *QUIET, "--trainer.max_steps=1")  # no subcommand, no corpus
    assert "corpus pydoc, tokenizer bytes" in out
    assert (tmp_path / LAST).is_file()
    assert "tensorboard --logdir runs" in out
    assert "A sample:" in out


def test_a_few_batches_go_through_every_hook_and_nothing_is_written(must_work, corpus_file, tmp_path):
    out, _ = must_work("train.py", "fit", *TINY, *config_flags("debug-fast"), f"--data.corpus={corpus_file}")
    assert "nothing is written" in out
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}


def test_the_profiler_prints_where_the_time_went(corpus_file, tmp_path):
    """As a process: Lightning logs it to the standard error that there was when it was imported."""
    options = [*TINY, *QUIET, "--trainer.max_steps=2", f"--data.corpus={corpus_file}"]
    done = run("train.py", "fit", *config_flags("profile"), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run_training_batch" in done.stdout + done.stderr


def test_the_fast_overlay_trains_a_newer_network_with_muon_and_goes_on(must_work, corpus_file, tmp_path):
    fast = ["fit", *config_flags("shakespeare", "shakespeare-fast"), *TINY, *QUIET, f"--data.corpus={corpus_file}"]
    must_work("train.py", *fast, "--trainer.max_steps=3")
    checkpoint = tmp_path / "runs/shakespeare-fast/version_0/checkpoints/last.ckpt"
    options = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert options["optimizer"] == "muon"
    newer = {"position": "rope", "qk_norm": True, "activation": "relu_squared", "tie_weights": False}
    assert options["gpt"].items() >= newer.items()
    out, _ = must_work("train.py", *fast, "--trainer.max_steps=4", "--ckpt_path=last")
    assert "resumed at step 3" in out


def test_help_lists_every_option(must_work):
    out, _ = must_work("train.py", "fit", "--help")
    for option in ("data.corpus", "data.test_stride", "model.gpt.n_layer", "model.on_spike", "trainer.max_steps"):
        assert f"--{option}" in out
    for option in ("depth_scan.on_alarm", "attention_heatmaps.every_n_validations", "last_checkpoint", "experiment"):
        assert f"--{option}" in out


@pytest.mark.parametrize("script", ["analyze.py", "generate.py"])
def test_help_of_the_other_commands(main, script):
    status, out, _ = main(script, "--help")
    assert status == 0
    assert "--checkpoint" in out


PAGES = [REPO / "README.md", *(REPO / "docs").glob("*.md"), REPO / "benchmarks/README.md"]
MODULES = sorted(
    {name for page in PAGES for name in re.findall(r"python -m ([\w.]+)", page.read_text())}
    - {"pytest", "benchmarks.NAME"}
)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_a_page_tells_to_call_is_a_command(module_main, module):
    status, out, err = module_main(module, "--help")
    assert status == 0, err
    assert "usage: " in out


def test_an_option_is_the_same_as_a_flag_and_as_a_yaml_key(printed, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "model: {gpt: {n_layer: 3}, on_spike: skip}\ndata: {test_stride: 7, percents: [80, 10, 10]}\n"
        "depth_scan: {on_alarm: stop}\nlast_checkpoint: {every_n_train_steps: 9}\n"
    )
    flags = ["--model.gpt.n_layer=3", "--model.on_spike=skip", "--data.test_stride=7", "--data.percents=[80, 10, 10]"]
    flags += ["--depth_scan.on_alarm=stop", "--last_checkpoint.every_n_train_steps=9"]
    as_flags, as_keys = printed(*flags), printed("--config=mine.yaml")
    for configuration in (as_flags, as_keys):
        configuration.pop("config", None)
    assert as_flags == as_keys
    assert as_flags["depth_scan"]["on_alarm"] == "stop"


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_the_precision_that_is_set_is_used(fit, precision):
    out, _ = fit("--trainer.max_steps=1", f"--trainer.precision={precision}")
    assert f"precision {precision}" in out


def test_what_is_saved_beside_a_run_is_a_configuration_to_train_with(fit, tmp_path):
    fit("--trainer.max_steps=1", "--model.weight_decay=0.25")
    beside = tmp_path / RUN / "config.yaml"
    fit(f"--config={beside}", "--trainer.max_steps=1", "--experiment=again")
    again = yaml.safe_load((tmp_path / "runs/again/version_0/config.yaml").read_text())
    assert again["model"]["weight_decay"] == 0.25

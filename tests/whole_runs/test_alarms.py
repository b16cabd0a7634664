"""docs/reading-the-scan.md: what an alarm does to a run, how often it looks, and what TensorBoard gets."""

import re

import pytest
import torch
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.interop import save_plain
from gpt_lightning.model import GPT, GPTConfig
from tests.command_line import TINY, run
from tests.conftest import REPO
from tests.whole_runs.conftest import LAST, RUN, events

NO_PICTURES = ["--attention_heatmaps.every_n_validations=0", "--text_samples.every_n_validations=0"]
NO_PICTURES += ["--trainer.enable_progress_bar=false"]


@pytest.fixture
def dead_layer(tmp_path) -> list[str]:
    """Options of a run whose weights do not move and whose layer 1 does nothing; it is scanned at steps 2, 4 and 6."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(2, 2, 16, 32, 256))
    with torch.no_grad():
        for part in (gpt.blocks[1].attention.output, gpt.blocks[1].mlp.down):
            part.weight.zero_()
            part.bias.zero_()
    save_plain(gpt, tmp_path / "dead", load_tokenizer("bytes"))
    return [
        "--model.init_from=dead",
        "--model.learning_rate=1e-12",
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=4",
        "--trainer.limit_val_batches=1",
        *NO_PICTURES,
    ]


@pytest.mark.parametrize(
    ("on_alarm", "kept", "ended"), [("warn", False, 6), ("checkpoint", True, 6), ("stop", True, 4)]
)
def test_the_second_scan_in_a_row_that_sees_a_dead_layer_raises_an_alarm(
    fit, must_work, dead_layer, tmp_path, on_alarm, kept, ended
):
    choice = [] if on_alarm == "warn" else [f"--depth_scan.on_alarm={on_alarm}"]  # the default
    out, _ = fit(*dead_layer, *choice, quiet=False)
    (line,) = [line for line in out.splitlines() if "ALARM" in line]  # said once
    assert re.match(r"step +4 +ALARM +layer 1 is dead", line, re.IGNORECASE)
    assert "--model.learning_rate" in line  # what to try
    assert f"after {ended} optimiser steps" in out
    assert ("Stopped by an alarm of the depth scan" in out) == (on_alarm == "stop")
    alarm = (tmp_path / LAST).with_name("alarm-step=4.ckpt")
    assert alarm.is_file() == kept
    if on_alarm == "checkpoint":
        out, _ = fit(*dead_layer, f"--ckpt_path={alarm}", quiet=False)
        assert "resumed at step 4" in out
        assert "ALARM" not in out  # it has been said
        out, _ = must_work("analyze.py", f"--checkpoint={alarm}", "--no-ablation")
        assert "layer 1 is dead" in out.lower()


@pytest.mark.parametrize(("every", "steps"), [(0, []), (2, [3])])
def test_the_scan_the_pictures_and_the_samples_come_at_every_nth_validation(fit, tmp_path, every, steps):
    options = [f"--{part}.every_n_validations={every}" for part in ("depth_scan", "attention_heatmaps", "text_samples")]
    options += ["--trainer.max_steps=6", "--trainer.val_check_interval=4", "--trainer.limit_val_batches=1"]
    fit(*options, "--trainer.enable_progress_bar=false", quiet=False)
    accumulator = events(tmp_path / RUN)
    assert [event.step for event in accumulator.Scalars("val/loss")] == [1, 3, 5]
    tags = accumulator.Tags()
    for kind, tag, get in (
        ("scalars", "depth_scan/entropy/layer_00", accumulator.Scalars),
        ("images", "attention/layer_00", accumulator.Images),
        ("images", "depth_scan/entropy", accumulator.Images),
        ("tensors", "samples/text_summary", accumulator.Tensors),
    ):
        assert ([event.step for event in get(tag)] if tag in tags[kind] else []) == steps, tag


def test_tensorboard_gets_everything_that_the_readme_lists(trained):
    tags = events(trained / RUN).Tags()
    of_heads = {"normalized_entropy", "first_position_mass", "stripe", "local_mass", "previous_token", "induction"}
    for metric in of_heads | {"max_logit", "effective_rank", "block_influence"}:
        curves = {f"depth_scan/{metric}/{which}" for which in ("layer_00", "layer_01", "worst")}
        assert curves <= set(tags["scalars"]), metric
    for metric in of_heads | {"max_logit"}:
        assert f"depth_scan/{metric}" in tags["images"]
        assert f"depth_scan/{metric}/heads" in tags["histograms"]


def test_curves_that_belong_together_are_in_one_chart_with_all_layers(trained):
    accumulator = events(trained / RUN)
    layout = layout_pb2.Layout.FromString(accumulator.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = [list(chart.multiline.tag) for category in layout.category for chart in category.chart]
    assert ["train/loss", "val/loss"] in charts
    scalars = accumulator.Tags()["scalars"]
    shown = [{tag for pattern in chart for tag in scalars if re.fullmatch(pattern, tag)} for chart in charts]
    assert all(shown)  # every chart has a curve that is there
    assert {f"depth_scan/normalized_entropy/layer_{layer:02d}" for layer in range(2)} in shown
    assert {"depth_scan/normalized_entropy/worst"} in shown


def test_runs_are_compared_by_their_options_loss_and_alarms(trained):
    metadata = events(trained / RUN).summary_metadata
    content = {name: metadata[f"_hparams_/{name}"].plugin_data.content for name in ("session_start_info", "experiment")}
    parse = plugin_data_pb2.HParamsPluginData.FromString
    options = parse(content["session_start_info"]).session_start_info.hparams
    assert options["gpt.n_layer"].number_value == 2
    assert options["data.tokenizer"].string_value == "bytes"
    metrics = {metric.name.tag for metric in parse(content["experiment"]).experiment.metric_infos}
    assert {"val/loss", "depth_scan/alarms_raised"} <= metrics


def test_the_verdicts_are_a_sentence_and_a_row_for_each_head(trained):
    accumulator = events(trained / RUN)
    text = accumulator.Tensors("depth_scan/verdicts/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "|" not in text.strip().splitlines()[0]
    rows = [line for line in text.splitlines() if re.match(r"\|? *\d+ *\| *\d+ *\|", line)]
    assert len(rows) == 4


def test_an_alarm_stops_every_rank(corpus_file, tmp_path):
    """Of two processes, only rank zero scans and writes, but both stop and save at the same step."""
    options = ["--config", REPO / "configs/ddp.yaml", *TINY, "--trainer.devices=2", "--trainer.max_steps=200"]
    sick = ["--model.gpt.d_model=64", "--model.learning_rate=0.1", "--trainer.gradient_clip_val=0"]
    looks = ["--depth_scan.on_alarm=stop", "--attention_heatmaps.every_n_validations=0", f"--data.corpus={corpus_file}"]
    result = run("train.py", "fit", *options, *sick, *looks, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("  ALARM  ") == 1
    stopped_at = int(re.search(r"Stopped by an alarm of the depth scan after (\d+) optimiser steps", result.stdout)[1])
    assert stopped_at < 200
    assert (tmp_path / f"runs/default/version_0/checkpoints/alarm-step={stopped_at}.ckpt").is_file()

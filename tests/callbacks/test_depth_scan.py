"""The depth scan during training: what it writes, what it remembers, and what it does when a layer dies."""

import re
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

import callbacks
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.errors import UserError
from gpt_lightning.interpret.metrics import PICTURED
from gpt_lightning.model import GPTConfig
from gpt_lightning.module import GPTModule

CONFIG = GPTConfig(n_layer=2, n_head=2, d_model=16, context_length=64, vocab_size=256)


class KillLayer(L.Callback):
    """From a step on, keep layer 1 at zero."""

    def __init__(self, from_step: int) -> None:
        self.from_step = from_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        if trainer.global_step >= self.from_step:
            for part in (pl_module.model.blocks[1].attention.output, pl_module.model.blocks[1].mlp.down):
                part.weight.zero_()
                part.bias.zero_()


def fit(corpus_file, directory: Path, extra: list, ckpt_path=None, logger=True, **options) -> L.Trainer:
    data = TextDataModule(str(corpus_file), batch_size=4, context_length=64, data_dir=str(directory / "data"))
    trainer = L.Trainer(
        accelerator="cpu",
        callbacks=extra,
        default_root_dir=directory,
        logger=TensorBoardLogger(str(directory), name="", version="run", default_hp_metric=False) if logger else False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=1,
        check_val_every_n_epoch=None,
        **{"max_steps": 20, "val_check_interval": 5, "log_every_n_steps": 4} | options,
    )
    trainer.fit(GPTModule(CONFIG, warmup_steps=1), data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_an_alarm_is_said_once_when_a_second_scan_confirms_it(corpus_file, tmp_path, capsys):
    scan = callbacks.DepthScan(2)
    fit(corpus_file, tmp_path, [KillLayer(8), scan], logger=False, max_steps=25)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ALARM" in line]
    assert len(lines) == 1
    assert lines[0].startswith("step     15  ALARM  Layer 1 is dead: ")
    assert "since step 10" in lines[0]
    assert "Try: " in lines[0]
    assert [record["step"] for record in scan.history] == [5, 10, 15, 20, 25]
    assert not list(tmp_path.rglob("alarm*"))


def test_a_checkpoint_on_alarm_is_one_to_resume_from(corpus_file, tmp_path):
    fit(corpus_file, tmp_path, [KillLayer(8), callbacks.DepthScan(2, on_alarm="checkpoint")], logger=False)
    kept = tmp_path / "checkpoints/alarm-step=15.ckpt"
    resumed = callbacks.DepthScan(2)
    trainer = fit(corpus_file, tmp_path, [resumed], ckpt_path=kept, logger=False)
    assert trainer.global_step == 20
    assert [record["step"] for record in resumed.history] == [5, 10, 15, 20]


def test_stop_on_alarm_ends_training(corpus_file, tmp_path):
    scan = callbacks.DepthScan(2, on_alarm="stop")
    trainer = fit(corpus_file, tmp_path, [KillLayer(8), scan], logger=False, max_steps=100)
    assert trainer.global_step == 15
    assert scan.stopped_by.startswith("Layer 1 is dead")
    assert list(tmp_path.rglob("alarm-step=15.ckpt"))


def test_a_run_that_is_well_is_left_alone(corpus_file, tmp_path, capsys):
    scan = callbacks.DepthScan(2, on_alarm="stop")
    assert fit(corpus_file, tmp_path, [scan], logger=False).global_step == 20
    assert "ALARM" not in capsys.readouterr().out
    assert scan.result.health == "healthy"


def test_an_alarm_that_was_said_is_not_said_again_after_a_resume(corpus_file, tmp_path, capsys):
    fit(corpus_file, tmp_path, [KillLayer(8), callbacks.DepthScan(2, on_alarm="checkpoint")], logger=False)
    capsys.readouterr()
    kept = tmp_path / "checkpoints/alarm-step=15.ckpt"
    resumed = callbacks.DepthScan(2)
    fit(corpus_file, tmp_path, [KillLayer(8), resumed], ckpt_path=kept, logger=False, max_steps=25)
    assert [alarm.label for alarm in resumed.result.alarms] == ["dead layer"]
    assert resumed.state_dict()["raised"] == [["dead layer", 1]]
    assert "ALARM" not in capsys.readouterr().out


def test_an_action_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="on_alarm is 'explode' but must be warn, checkpoint or stop"):
        callbacks.DepthScan(on_alarm="explode")


def test_what_tensorboard_gets(corpus_file, tmp_path):
    extra = [callbacks.DepthScan(2), callbacks.AttentionHeatmaps(8), callbacks.HyperParameters()]
    trainer = fit(corpus_file, tmp_path, extra, max_steps=10)
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"histograms": 0, "images": 0}).Reload()
    tags = events.Tags()
    for name in (*PICTURED, "effective_rank", "block_influence"):
        assert {f"depth_scan/{name}/{which}" for which in ("layer_00", "layer_01", "worst")} <= set(tags["scalars"])
    assert {"depth_scan/alarms", "depth_scan/suspicions"} <= set(tags["scalars"])
    assert {f"depth_scan/{name}" for name in PICTURED} <= set(tags["images"])
    assert {"depth_scan/entropy_over_time", "attention/layer_01", "attention/heads_of_note"} <= set(tags["images"])
    assert {f"depth_scan/{name}/heads" for name in PICTURED} <= set(tags["histograms"])
    # Of two kinds under one name TensorBoard shows only the first.
    kinds = [set(tags[kind]) for kind in ("scalars", "images", "histograms", "tensors")]
    assert sum(map(len, kinds)) == len(set.union(*kinds))
    histogram = events.Histograms("depth_scan/entropy/heads")[-1].histogram_value
    assert histogram.num == 4  # a value for each head
    assert [event.step for event in events.Scalars("depth_scan/entropy/worst")] == [4, 9]
    assert "depth_scan/verdicts/text_summary" in tags["tensors"]
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["loss (nats per token)"] == ["train/loss", "val/loss"]
    # Every pattern matches a curve that exists.
    for patterns in charts.values():
        for pattern in patterns:
            assert any(re.fullmatch(pattern, tag) for tag in tags["scalars"]), pattern
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["gpt.n_layer"].number_value == 2
    assert start.hparams["data.tokenizer"].string_value == "bytes"
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    metrics = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.metric_infos
    assert {metric.name.tag for metric in metrics} == {"val/loss", "val/bits_per_byte", "depth_scan/alarms_raised"}
    assert trainer.callback_metrics["val/loss"] == pytest.approx(events.Scalars("val/loss")[-1].value)


def test_heatmaps_take_their_verdicts_from_the_scan(corpus_file, tmp_path, monkeypatch):
    import callbacks.attention_heatmaps as heatmaps

    monkeypatch.setattr(heatmaps, "depth_scan", lambda *args: pytest.fail("scanned twice"))
    fit(corpus_file, tmp_path, [callbacks.DepthScan(2), callbacks.AttentionHeatmaps(8)], max_steps=5)


def test_heatmaps_without_a_scan_make_one(corpus_file, tmp_path):
    fit(corpus_file, tmp_path, [callbacks.AttentionHeatmaps(8)], max_steps=5)
    assert "attention/heads_of_note" in EventAccumulator(str(tmp_path / "run")).Reload().Tags()["images"]

"""The LightningModule: metrics by known answers, accumulation, options that must not change the mathematics."""

import math
import shutil

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision

from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPTConfig
from gpt_lightning.module import GPTModule


def trainer(**options) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(accelerator="cpu", **quiet | options)


@pytest.fixture
def data(corpus_file, tmp_path) -> TextDataModule:
    return TextDataModule(str(corpus_file), batch_size=4, context_length=16, data_dir=str(tmp_path))


def fitted(config: GPTConfig, data: TextDataModule, module_options=(), **trainer_options) -> GPTModule:
    L.seed_everything(0, verbose=False)
    module = GPTModule(config, warmup_steps=2, **dict(module_options))
    trainer(max_steps=4, limit_val_batches=0, **trainer_options).fit(module, data)
    return module


def test_validation_figures_equal_their_definitions(tiny_config, data):
    module = GPTModule(tiny_config)
    (figures,) = trainer().validate(module, data, verbose=False)
    tokens = torch.from_numpy(data.tokens["val"][:].astype("int64"))
    nats = []
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            inputs, targets = tokens[start : start + 16][: len(tokens) - 1 - start], tokens[start + 1 : start + 17]
            nats.append(F.cross_entropy(module.model(inputs[None])[0], targets, reduction="sum"))
    loss = (sum(nats) / (len(tokens) - 1)).item()
    assert figures["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert figures["val/perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    # With bytes for tokens, a token is a byte.
    assert figures["val/bits_per_byte"] == pytest.approx(loss / math.log(2), rel=1e-5)


def test_bits_per_byte_counts_bytes_not_tokens(tiny_config, data, monkeypatch):
    """If every token were 4 bytes long, each byte would have a quarter of the bits."""
    monkeypatch.setattr("gpt_lightning.data.datamodule.token_byte_lengths", lambda _: torch.full((256,), 4))
    (figures,) = trainer().validate(GPTModule(tiny_config), data, verbose=False)
    assert figures["val/bits_per_byte"] == pytest.approx(figures["val/loss"] / math.log(2) / 4, rel=1e-5)


def test_four_accumulated_batches_equal_one_of_four_times_the_size(tiny_config, corpus_file, tmp_path):
    small, large = (
        TextDataModule(str(corpus_file), batch_size=size, context_length=16, data_dir=str(tmp_path)) for size in (4, 16)
    )
    accumulated = fitted(tiny_config, small, accumulate_grad_batches=4)
    at_once = fitted(tiny_config, large)
    for (name, ours), theirs in zip(accumulated.model.named_parameters(), at_once.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=name)


def test_activation_checkpointing_changes_no_number(tiny_config, data):
    tiny_config.dropout = 0.2  # the recomputed masks have to be the same ones
    plain = fitted(tiny_config, data)
    checkpointed = fitted(tiny_config, data, {"activation_checkpointing": True})
    assert list(plain.state_dict()) == list(checkpointed.state_dict())
    for ours, theirs in zip(checkpointed.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_activation_checkpointing_holds_fewer_activations(tiny_config, data):
    """Count what autograd keeps for backward."""

    def kept(module: GPTModule) -> int:
        sizes = []
        inputs = torch.randint(256, (4, 16))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            module.training_loss(module.model, inputs, inputs)
        return sum(sizes)

    tiny_config.n_layer = 6
    assert kept(GPTModule(tiny_config, activation_checkpointing=True)) < kept(GPTModule(tiny_config)) / 2


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compile_changes_no_number_and_the_scan_still_sees(tiny_config, data):
    from gpt_lightning.interpret.scan import depth_scan

    plain = fitted(tiny_config, data)
    compiled = fitted(tiny_config, data, {"compile": True})
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for ours, theirs in zip(compiled.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    scan = depth_scan(compiled.model, torch.randint(256, (2, 16)))
    assert scan.heads["entropy"].shape == (2, 2)
    assert scan.heads["entropy"].isfinite().all()


def test_training_steps_carry_no_hooks(tiny_config, data):
    hooks = []

    class Count(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            hooks.extend(h for m in module.model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks))

    fitted(tiny_config, data, callbacks=[Count()])
    assert hooks == []


@pytest.mark.parametrize(
    ("scaler", "clip", "fused"), [(True, 1.0, False), (True, None, False), (False, 1.0, True), (False, None, True)]
)
def test_fused_adamw_wherever_it_is_allowed(tiny_config, data, scaler, clip, fused):
    """fp16's scaler excludes it. The scaler is a real one, but on a CPU."""
    module = GPTModule(tiny_config)
    module.trainer = trainer(max_steps=1, gradient_clip_val=clip)
    if scaler:
        module.trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is fused


def test_steps_of_the_run_are_counted_after_accumulation(tiny_config, data):
    module = GPTModule(tiny_config)
    lengths = []

    class Ask(L.Callback):
        def on_train_start(self, trainer, module):
            lengths.append((len(trainer.train_dataloader), module.total_optimizer_steps()))

    t = trainer(max_epochs=2, accumulate_grad_batches=4, limit_val_batches=0, callbacks=[Ask()])
    t.fit(module, data)
    ((batches, steps),) = lengths
    assert steps == 2 * math.ceil(batches / 4) == t.global_step


def test_every_option_out_of_range_is_named(tiny_config):
    with pytest.raises(UserError) as caught:
        GPTModule(tiny_config, learning_rate=-1.0, beta2=2.0, decay_steps=0, embedding_learning_rate=math.nan)
    assert str(caught.value) == (
        "model.learning_rate: -1.0 is out of range: it must be above 0 and finite; "
        "model.embedding_learning_rate: nan is out of range: it must be above 0 and finite; "
        "model.decay_steps: 0 is out of range: it must be at least 1; "
        "model.beta2: 2.0 is out of range: it must be at least 0 and below 1."
    )


def test_options_in_a_checkpoint_are_plain_numbers(tiny_config, data):
    module = fitted(tiny_config, data, {"learning_rate": 1e-3, "decay_steps": 5})
    assert {type(module.hparams[name]) for name in ("learning_rate", "beta1", "spike_factor")} == {float}
    assert {type(module.hparams[name]) for name in ("warmup_steps", "decay_steps")} == {int}


def test_an_endless_run_needs_to_say_where_its_schedule_ends(tiny_config, data):
    with pytest.raises(UserError, match="where training ends"):
        trainer(max_epochs=-1).fit(GPTModule(tiny_config), data)


def test_load_from_checkpoint_restores_the_network(tiny_config, data, tmp_path):
    module = fitted(tiny_config, data)
    module.trainer.save_checkpoint(tmp_path / "saved.ckpt")
    again = GPTModule.load_from_checkpoint(tmp_path / "saved.ckpt", weights_only=True)
    assert again.model.config == tiny_config
    assert again.hparams.warmup_steps == 2
    for ours, theirs in zip(again.model.parameters(), module.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_mixed_precision_trains_with_accumulation_and_clipping(tiny_config, data, precision):
    module = GPTModule(tiny_config, warmup_steps=2)
    t = L.Trainer(
        accelerator="gpu",
        devices=1,
        precision=precision,
        max_steps=20,
        accumulate_grad_batches=4,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    (before,) = t.validate(module, data, verbose=False)
    t.fit(module, data)
    (after,) = t.validate(module, data, verbose=False)
    assert after["val/loss"] < before["val/loss"]

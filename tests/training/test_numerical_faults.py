"""Numerical faults in training: NaN, infinity, fp16 overflow, spikes. They are injected into real runs."""

import math
import re
from datetime import timedelta

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing import ProcessRaisedException

from callbacks import ExactResume, LastCheckpoint
from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.errors import UserError
from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.module import GPTModule
from gpt_lightning.training import numerical_faults

STEPS, ACCUMULATED, LOGGED = 8, 2, 3
NAN, INF = float("nan"), float("inf")


class Run(L.Callback):
    """A run of 8 optimiser steps of 2 batches, every 3rd logged. `inject` is called before every training step and may
    return a function to change the loss by; `before_step` is called before every optimiser step."""

    def __init__(
        self, directory, corpus_file, inject=None, before_step=None, steps=STEPS, gpt=(), trainer=(), **options
    ):
        L.seed_everything(0, verbose=False)
        config = {"n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 16, "vocab_size": 256, "dropout": 0.1}
        self.module = GPTModule(
            GPTConfig(**config | dict(gpt)), learning_rate=1e-2, warmup_steps=3, decay_steps=STEPS, **options
        )
        self.inject, self.before_step = inject, before_step
        self.states, self.logged, self.rates = [], {}, []
        self.original_step, self.module.training_step = self.module.training_step, self.training_step
        self.data = TextDataModule(str(corpus_file), batch_size=4, context_length=16, data_dir=str(directory / "data"))
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
        self.trainer = L.Trainer(
            **{
                "accelerator": "cpu",
                "max_steps": steps,
                "accumulate_grad_batches": ACCUMULATED,
                "log_every_n_steps": LOGGED,
                "enable_checkpointing": False,
                "callbacks": [self],
            }
            | quiet
            | dict(trainer)
        )

    def fit(self, ckpt_path=None):
        self.trainer.fit(self.module, self.data, ckpt_path=ckpt_path, weights_only=True)
        return self

    def error(self) -> str:
        """What the run stops with."""
        with pytest.raises(UserError) as caught:
            self.fit()
        return str(caught.value)

    @property
    def at(self) -> tuple[int, int]:
        """The optimiser step, and the batch in it."""
        return self.trainer.global_step, self.trainer.fit_loop.batch_idx % ACCUMULATED

    def training_step(self, *args):
        change = None if self.inject is None else self.inject(self)
        loss = self.original_step(*args)
        return loss if change is None else change(loss)

    def on_train_start(self, *_):
        self.start = state(self)

    def on_before_optimizer_step(self, *_):
        if self.before_step is not None:
            self.before_step(self)

    def on_train_batch_end(self, trainer, module, *_):
        self.states.append(state(self))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        if module.completes_logged_step:
            figures = trainer.callback_metrics.items()
            self.logged[trainer.global_step] = {name: value.item() for name, value in figures}


def state(run: Run) -> dict[str, torch.Tensor]:
    """Copies of the weights and of what the optimiser keeps."""
    kept = {name: p.detach().clone() for name, p in run.module.model.named_parameters()}
    for number, values in run.trainer.optimizers[0].state_dict()["state"].items():
        kept |= {f"{number} {name}": value.clone() for name, value in values.items()}
    return kept


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def clean(tmp_path_factory, corpus_file) -> Run:
    """The run without any fault."""
    torch.set_num_threads(1)
    return Run(tmp_path_factory.mktemp("clean"), corpus_file).fit()


def spoil_gradient(parameter: torch.Tensor, value: float, count: int) -> None:
    """Spoil the gradient in the backward pass to come, and in no other."""

    def hook(gradient):
        handle.remove()
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        gradient.view(-1)[:count] = value
        return gradient

    handle = parameter.register_hook(hook)


def spoil_backward(module: torch.nn.Module) -> None:
    """Spoil the gradient of the module's output in the forward pass to come."""

    def hook(module, inputs, output):
        handle.remove()
        spoil_gradient(output, NAN, 1)

    handle = module.register_forward_hook(hook)


def spoil_output(module: torch.nn.Module, value: float) -> None:
    """Spoil every output from now on."""
    module.register_forward_hook(lambda m, inputs, output: output.index_fill(-1, torch.tensor([3]), value))


def inject_at(step: int, batch: int, inject):
    return lambda run: inject(run) if run.at == (step, batch) else None


FAULTS = {
    "loss NaN": (lambda run: lambda loss: loss * NAN, "The loss is NaN", "not the network's, or has passed"),
    # Neither of these two shows in any gradient.
    "loss + NaN": (lambda run: lambda loss: loss + NAN, "The loss is NaN", "not the network's, or has passed"),
    "loss - inf": (lambda run: lambda loss: loss - INF, "The loss is -inf", "not the network's, or has passed"),
    "gradient NaN": (
        lambda run: spoil_gradient(run.module.model.blocks[1].mlp.down.weight, NAN, 37),
        "A gradient is not finite",
        "that of blocks.1.mlp.down.weight (layer 1's MLP) has 37 NaN among its 1,024 values.",
    ),
    "gradient inf": (
        lambda run: spoil_gradient(run.module.model.token_embedding.weight, -INF, 1),
        "A gradient is not finite",
        "that of token_embedding.weight (the embedding) has 1 -inf among its 4,096 values.",
    ),
    "backward of a layer": (
        lambda run: spoil_backward(run.module.model.blocks[0].mlp),
        "A gradient is not finite",
        "that of blocks.0.mlp.down.bias (layer 0's MLP) has 1 NaN among its 16 values; so have 13 parameters before it",
    ),
    "gradient too large": (
        lambda run: spoil_gradient(run.module.model.blocks[0].attention.qkv.weight, 1e30, 1),
        "The gradient norm is too large for float32",
        "the largest gradient, 1e+30, is in blocks.0.attention.qkv.weight (layer 0's attention).",
    ),
}


@pytest.mark.parametrize(("step", "batch"), [(0, 0), (4, 1)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_stops_the_run_before_a_weight_changes(tmp_path, corpus_file, clean, fault, step, batch):
    inject, value, place = FAULTS[fault]
    run = Run(tmp_path, corpus_file, inject_at(step, batch, inject))
    message = run.error()
    assert f"{value} at optimiser step {step}" in message
    assert place in message
    if value.startswith("The loss"):
        assert f"in batch {batch + 1} of 2" in message
    assert same(state(run), clean.states[ACCUMULATED * step - 1] if step else clean.start)


@pytest.mark.parametrize(("step", "batch"), [(0, 1), (5, 0)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_can_be_skipped(tmp_path, corpus_file, clean, capsys, fault, step, batch):
    inject, value, place = FAULTS[fault]
    run = Run(tmp_path, corpus_file, inject_at(step, batch, inject), on_nonfinite="skip").fit()
    after = run.states[ACCUMULATED * (step + 1) - 1]
    assert same(after, run.states[ACCUMULATED * step - 1] if step else run.start)
    assert not same(run.states[ACCUMULATED * (step + 2) - 1], after)
    assert run.trainer.global_step == STEPS
    assert run.rates == clean.rates
    skipped = [line for line in capsys.readouterr().out.splitlines() if "SKIPPED" in line]
    assert len(skipped) == 1
    assert f"{value} at optimiser step {step}" in skipped[0]
    assert place in skipped[0]
    assert [figures["train/skipped_steps"] for figures in run.logged.values()] == [float(s >= step) for s in (2, 5)]
    for figures in run.logged.values():
        assert all(map(math.isfinite, figures.values())), figures
        assert 1 < figures["train/loss"] < 7


def test_a_window_of_skipped_steps_logs_no_loss_and_leaves_the_average_sound(tmp_path, corpus_file):
    """Steps 3 to 5 are all that the second average is of."""
    nan = lambda run: (lambda loss: loss * NAN) if 3 <= run.at[0] < 6 else None  # noqa: E731
    run = Run(tmp_path, corpus_file, nan, on_nonfinite="skip", steps=9).fit()
    assert run.module.train_loss.metric_state["mean_value"].isfinite()
    assert run.logged[6]["train/skipped_steps"] == run.logged[9]["train/skipped_steps"] == 3
    assert run.logged[6]["train/loss"] == run.logged[3]["train/loss"]  # the last that was known
    assert math.isfinite(run.logged[9]["train/loss"])


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (lambda gpt: gpt.token_embedding, "token_embedding (the embedding)"),
        (lambda gpt: gpt.blocks[0].attention.qkv, "blocks.0.attention.qkv (layer 0's attention)"),
        (lambda gpt: gpt.blocks[1].attention.output, "blocks.1.attention.output (layer 1's attention)"),
        (lambda gpt: gpt.blocks[1].norm2, "blocks.1.norm2 (layer 1's MLP)"),
        (lambda gpt: gpt.blocks[1], "blocks.1 (layer 1's output)"),
        (lambda gpt: gpt.norm, "norm (the final norm)"),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_bad_output_is_named_by_its_layer(tmp_path, corpus_file, broken, named, checkpointing):
    """Also in a batch of the step that is not its last."""
    spoil = inject_at(4, 0, lambda run: spoil_output(broken(run.module.model), NAN))
    run = Run(tmp_path, corpus_file, spoil, activation_checkpointing=checkpointing)
    message = run.error()
    assert "The loss is NaN at optimiser step 4, in batch 1 of 2" in message
    assert f"the first bad output is that of {named}, with " in message
    assert "NaN among its" in message
    assert not any(
        module._forward_hooks for module in run.module.model.modules() if module is not broken(run.module.model)
    )


def test_weights_that_are_finite_but_far_too_large(tmp_path, corpus_file):
    """The sum of squares in the final norm is the first to overflow; the cause is the output before it."""

    def spoil(run):
        with torch.no_grad():
            run.module.model.blocks[1].mlp.down.weight.mul_(1e24)

    message = Run(tmp_path, corpus_file, inject_at(5, 1, spoil)).error()
    assert "the first bad output is that of norm (the final norm), with " in message
    assert re.search(
        r"the first above 10,000 is that of blocks\.1\.mlp\.down \(layer 1's MLP\), with \S+e\+2\d\.", message
    )


def test_it_is_the_bad_batch_that_is_run_again_with_its_dropout(tmp_path, corpus_file):
    """Only the first batch of the step is bad, and only with the dropout that it had."""
    bad = []

    def hook(module, inputs, output):
        dropped = inputs[0] * (output == 0)
        bad.append(dropped)
        return output * NAN if torch.equal(dropped, bad[0]) else None

    def spoil(run):
        if run.at == (2, 0):
            run.module.model.dropout.register_forward_hook(hook)

    message = Run(tmp_path, corpus_file, spoil).error()
    assert "in batch 1 of 2; run again, the first bad output is that of dropout" in message
    assert len(bad) == 3
    assert not torch.equal(bad[1], bad[0])


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_a_bad_weight_always_stops(tmp_path, corpus_file, choice):
    def spoil(run):
        with torch.no_grad():
            run.module.model.blocks[1].mlp.up.bias[5:7] = INF

    message = Run(tmp_path, corpus_file, inject_at(6, 1, spoil), on_nonfinite=choice).error()
    assert "A weight is not finite at optimiser step 6: blocks.1.mlp.up.bias (layer 1's MLP) has 2 inf" in message


def test_a_bad_weight_that_no_batch_meets_is_found_at_the_next_logged_step(tmp_path, corpus_file):
    def spoil(run):
        with torch.no_grad():
            run.module.model.token_embedding.weight[255, 0] = NAN  # no byte of this text

    message = Run(tmp_path, corpus_file, inject_at(4, 0, spoil), gpt={"tie_weights": False}).error()
    assert "A weight is not finite at optimiser step 5: token_embedding.weight (the embedding) has 1 NaN" in message


def test_bad_weights_are_never_saved(tmp_path, corpus_file):
    run = Run(tmp_path, corpus_file, steps=2).fit()
    with torch.no_grad():
        run.module.model.blocks[0].attention.output.weight[0, 0] = NAN
    with pytest.raises(UserError, match=r"optimiser step 2: blocks\.0\.attention\.output\.weight .* has 1 NaN among"):
        run.trainer.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()


def test_twenty_skipped_steps_in_a_row_are_enough(tmp_path, corpus_file):
    nan = lambda run: (lambda loss: loss * NAN) if run.at[0] != 4 else None  # noqa: E731
    run = Run(tmp_path, corpus_file, nan, steps=100, on_nonfinite="skip", trainer={"accumulate_grad_batches": 1})
    message = run.error()
    assert message.startswith("20 optimiser steps in a row are bad. The loss is NaN at optimiser step 24")
    assert run.module.guard.watch.skipped == 4 + 19


class SaveEveryBatch(L.Callback):
    def __init__(self, directory):
        self.directory = directory

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(self.directory / f"{trainer.fit_loop.total_batch_idx}.ckpt")


@pytest.mark.parametrize("bad_step", [1, 4])
def test_a_run_with_a_skipped_step_resumes_exactly(tmp_path, corpus_file, bad_step):
    """From every step and from the middle of steps, the skipped one included, before and after its bad batch."""
    nan = inject_at(bad_step, 1, lambda run: lambda loss: loss * NAN)

    def run(**trainer):
        return Run(tmp_path, corpus_file, nan, on_nonfinite="skip", steps=6, trainer=trainer)

    uninterrupted = run()
    uninterrupted.trainer.callbacks.append(SaveEveryBatch(tmp_path))
    uninterrupted.fit()
    batches = [ACCUMULATED * bad_step + i - 1 for i in range(ACCUMULATED + 2)]
    for batch in batches:
        resumed = run().fit(tmp_path / f"{batch}.ckpt")
        assert same(resumed.states[-1], uninterrupted.states[-1]), batch
        assert resumed.module.guard.watch.state_dict() == uninterrupted.module.guard.watch.state_dict(), batch
        assert resumed.logged[6] == uninterrupted.logged[6], batch


def test_a_checkpoint_saved_before_a_resumed_run_has_trained_keeps_the_batches_of_the_step(tmp_path, corpus_file):
    class SaveAtStart(L.Callback):
        def on_train_start(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "again.ckpt")

    run = Run(tmp_path, corpus_file, steps=2)
    run.trainer.callbacks.append(SaveEveryBatch(tmp_path))
    run.fit()
    resumed = Run(tmp_path, corpus_file, steps=2)
    resumed.trainer.callbacks.append(SaveAtStart())
    resumed.fit(tmp_path / "2.ckpt")  # one of two batches
    saved, again = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("2", "again"))
    for kept in ("unstepped_losses", "unstepped_gradients"):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(again[kept], saved[kept], strict=True))
    assert len(again["unstepped_losses"]) == 1


def test_a_run_that_stopped_can_go_on_without_the_bad_step(tmp_path, corpus_file):
    """The run is saved where the bad step began."""
    nan = inject_at(5, 1, lambda run: lambda loss: loss * NAN)
    stopped = Run(tmp_path, corpus_file, nan)
    last = LastCheckpoint(every_n_train_steps=1000)
    last.dirpath = str(tmp_path)
    stopped.trainer.callbacks += [ExactResume(), last]
    assert "at optimiser step 5" in stopped.error()
    resumed = Run(tmp_path, corpus_file, nan, on_nonfinite="skip").fit(tmp_path / "last.ckpt")
    uninterrupted = Run(tmp_path, corpus_file, nan, on_nonfinite="skip").fit()
    assert same(resumed.states[-1], uninterrupted.states[-1])
    assert resumed.module.guard.watch.state_dict() == uninterrupted.module.guard.watch.state_dict()


# ---- fp16


def fp16(scale: float) -> dict:
    """A GPU's scaler and autocast, on a CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_fp16_overflow_is_skipped_counted_and_recovered_from(tmp_path, corpus_file, capsys, clip):
    run = Run(tmp_path, corpus_file, trainer=fp16(2.0**21) | {"gradient_clip_val": clip}).fit()
    scales = [figures["train/loss_scale"] for figures in run.logged.values()]
    skipped = int(run.logged[6]["train/skipped_steps"])
    assert 0 < skipped < STEPS
    assert scales[-1] == 2.0 ** (21 - skipped)
    moved = [not same(run.states[ACCUMULATED * s - 1], run.states[ACCUMULATED * (s + 1) - 1]) for s in range(1, STEPS)]
    assert moved == [False] * (skipped - 1) + [True] * (STEPS - skipped)
    message = (
        r"SKIPPED  A gradient overflows fp16 at optimiser step 0, with a loss of 5\.5.. and a loss scale of 2,097,152"
    )
    assert re.search(message, capsys.readouterr().out)
    assert run.logged[6]["train/loss"] < run.logged[3]["train/loss"]
    assert 0.1 < run.logged[6]["train/grad_norm"] < 100  # unscaled


def test_more_overflows_than_steps_may_be_skipped_in_a_row_are_no_fault(tmp_path, corpus_file):
    run = Run(tmp_path, corpus_file, trainer=fp16(2.0**44) | {"accumulate_grad_batches": 1}, steps=40).fit()
    assert numerical_faults.MOST_SKIPPED < run.module.guard.watch.skipped < 40


def test_gradients_that_overflow_whatever_the_scale_stop_the_run(tmp_path, corpus_file):
    nan = lambda run: spoil_gradient(run.module.model.blocks[0].mlp.up.weight, NAN, 3)  # noqa: E731
    message = Run(tmp_path, corpus_file, nan, trainer=fp16(4.0)).error()
    # 4, 2, 1: then it was no overflow.
    assert "overflows fp16 at optimiser step 3, with a loss of" in message
    assert "a loss scale of 0.5: that of blocks.0.mlp.up.weight (layer 0's MLP) has 3 NaN among" in message


def test_a_gradient_that_goes_bad_after_the_scaler_looked_is_no_overflow(tmp_path, corpus_file):
    def spoil(run):
        run.module.model.blocks[0].mlp.up.weight.grad[0, 0] = NAN

    message = Run(tmp_path, corpus_file, trainer=fp16(4.0), before_step=spoil).error()
    assert message.startswith("A gradient is not finite at optimiser step 0")


def test_a_bad_loss_under_fp16_is_no_overflow(tmp_path, corpus_file):
    run = Run(tmp_path, corpus_file, inject_at(3, 1, lambda run: lambda loss: loss * NAN), trainer=fp16(128.0))
    assert "The loss is NaN at optimiser step 3, in batch 2 of 2" in run.error()


# ---- spikes


def scale_gradients(step: int, factor: float):
    def before_step(run):
        if run.trainer.global_step == step:
            for parameter in run.module.model.parameters():
                parameter.grad.mul_(factor)

    return before_step


@pytest.mark.parametrize("choice", ["warn", "skip", "stop"])
@pytest.mark.parametrize("spiking", ["gradient", "loss"])
def test_a_spike(tmp_path, corpus_file, capsys, choice, spiking):
    inject = inject_at(6, 0, lambda run: lambda loss: loss + 50) if spiking == "loss" else None
    before_step = scale_gradients(6, 50) if spiking == "gradient" else None
    run = Run(tmp_path, corpus_file, inject, before_step, on_spike=choice, trainer={"gradient_clip_val": 1.0})
    message = run.error() if choice == "stop" else capsys.readouterr().out + (run.fit() and capsys.readouterr().out)
    lines = [line for line in message.splitlines() if "spike at optimiser step 6:" in line]
    assert len(lines) == 1
    norm, norm_times, loss, loss_times = map(
        float, re.search(r"norm is (\S+), (\S+) times .* loss (\S+), (\S+) times", lines[0]).groups()
    )
    assert (norm > 20) == (norm_times > 10) == (spiking == "gradient")
    assert (loss > 15) == (loss_times > 3) == (spiking == "loss")
    assert re.search(r"the largest gradient, \S+, is in \S+ \(.*(layer|embedding|norm)", lines[0])
    if choice != "stop":
        before, after = run.states[ACCUMULATED * 6 - 1], run.states[ACCUMULATED * 7 - 1]
        assert same(before, after) is (choice == "skip")
        assert run.module.guard.watch.skipped == (choice == "skip")


def test_a_healthy_run_says_nothing(tmp_path, corpus_file, capsys):
    Run(tmp_path, corpus_file, steps=20).fit()
    assert "SPIKE" not in capsys.readouterr().out


# ---- several ranks


class WriteDown(L.Callback):
    """Each rank writes how its run ended. After a UserError it waits until every rank has come to one."""

    def __init__(self, directory):
        self.directory = directory

    def write(self, trainer, **ended):
        torch.save(ended, self.directory / f"rank{trainer.global_rank}.pt")

    def on_train_start(self, trainer, module):
        original = module.configure_gradient_clipping

        def hook(*args, **kwargs):
            try:
                original(*args, **kwargs)
            except UserError as error:
                self.write(trainer, message=str(error))
                torch.distributed.barrier()
                raise

        module.configure_gradient_clipping = hook

    def on_train_end(self, trainer, module):
        self.write(trainer, weights=module.model.state_dict(), watch=module.guard.watch.state_dict())


RANK_1 = {
    "loss": (lambda run: lambda loss: loss + NAN, "The loss is NaN at optimiser step 5, in batch 2 of 2"),
    "weight": (
        lambda run: run.module.model.blocks[1].mlp.up.bias.data.fill_(NAN),
        "A weight is not finite at optimiser step 5: blocks.1.mlp.up.bias (layer 1's MLP) has 64 NaN",
    ),
}


@pytest.mark.parametrize(("fault", "choice"), [("loss", "skip"), ("loss", "stop"), ("weight", "skip")])
def test_all_ranks_do_the_same_about_a_fault_of_one(tmp_path, corpus_file, capfd, fault, choice):
    spoil, sentence = RANK_1[fault]

    def inject(run):
        if run.trainer.global_rank == 1 and run.at == (5, 1):
            change = spoil(run)
            return change if callable(change) else None
        return None

    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=20))
    run = Run(tmp_path, corpus_file, inject, on_nonfinite=choice, trainer={"strategy": strategy, "devices": 2})
    run.trainer.callbacks.append(WriteDown(tmp_path))
    if (fault, choice) == ("loss", "skip"):
        run.fit()
        assert capfd.readouterr().out.count(f"SKIPPED  {sentence}") == 1
    else:
        with pytest.raises(ProcessRaisedException):
            run.fit()
    one, other = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    if choice == "skip" and fault == "loss":
        assert same(one["weights"], other["weights"])
        assert one["watch"] == other["watch"]
        assert one["watch"]["skipped"] == 1
    else:
        assert one["message"] == other["message"]
        assert one["message"].startswith(sentence)


# ---- what every step does


@pytest.mark.parametrize("algorithm", ["norm", "value", None])
def test_gradients_are_clipped_as_pytorch_does_it(tmp_path, corpus_file, algorithm):
    seen = []

    def keep(run):
        seen.append([p.grad.clone() for p in run.module.model.parameters()])

    clip = {"gradient_clip_val": 0.05, "gradient_clip_algorithm": algorithm} if algorithm else {}
    run = Run(tmp_path, corpus_file, before_step=keep, steps=3, trainer=clip).fit()
    expected = [torch.zeros_like(gradient).requires_grad_() for gradient in seen[-1]]
    for parameter, gradient in zip(expected, seen[-1], strict=True):
        parameter.grad = gradient.clone()
    norm = torch.nn.utils.clip_grad_norm_(expected, 0.05 if algorithm == "norm" else INF)
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(expected, 0.05)
    for ours, theirs in zip(run.module.model.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert run.logged[3]["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-5)  # before clipping


def test_every_parameter_belongs_to_a_part_of_the_network():
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, d_model=4, context_length=4, vocab_size=4, tie_weights=False))
    assert {numerical_faults.describe_parameter(name).split("(")[1] for name, _ in gpt.named_parameters()} == {
        "the embedding)",
        "layer 0's attention)",
        "layer 0's MLP)",
        "the final norm)",
        "the head)",
    }


def test_what_lasts_is_no_spike():
    median = numerical_faults.RunningMedian(least=0.1)
    for value in (*[1.0] * 30, *[100.0] * 31, NAN, INF):
        median.remember(value)
    assert median.ratio(200) == 2  # of the last 50, 31 are 100
    assert numerical_faults.RunningMedian(0.1).ratio(1e9) == 0


def test_what_is_known_of_earlier_steps_survives_a_checkpoint():
    watch, resumed = (numerical_faults.StepWatch("skip", "warn", 10) for _ in range(2))
    watch.remember(norm=1, loss=2)
    assert not watch.takes(numerical_faults.Fault(numerical_faults.Kind.LOSS, ""))
    resumed.load_state_dict(watch.state_dict())
    assert resumed.state_dict() == {"norms": [1], "losses": [2], "skipped": 1, "skipped_in_a_row": 1}

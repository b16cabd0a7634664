"""The datamodule in a Trainer: resuming, warnings, and what it refuses."""

import io
import logging
import warnings
import zlib
from base64 import b64encode

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from gpt_lightning.data.datamodule import TextDataModule
from gpt_lightning.data.tokenizer import load_tokenizer, tokenizer_from_state
from gpt_lightning.data.tokens.token_sequence import Tokens
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text


class Recorder(LightningModule):
    """Remembers the batches it is given; the smallest thing that a Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained: list[tuple[int, int, list]] = []
        self.validated: list[list] = []

    def training_step(self, batch, batch_idx):
        self.trained.append((self.current_epoch, batch_idx, batch[0].tolist()))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


@pytest.fixture
def make_data(tmp_path):
    (tmp_path / "text.txt").write_bytes(make_text(4000))

    def make(**kwargs) -> TextDataModule:
        defaults = {"corpus": str(tmp_path / "text.txt"), "batch_size": 8, "context_length": 16}
        return TextDataModule(**defaults | {"data_dir": str(tmp_path / "data")} | kwargs)

    return make


@pytest.fixture
def data(make_data):
    data = make_data()
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture(autouse=True)
def quiet():
    """Lightning tells much about every Trainer."""
    loggers = [logging.getLogger(f"lightning.pytorch{part}") for part in ("", ".utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def fit(data, tmp_path, ckpt_path=None, callbacks=(), **kwargs) -> Recorder:
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        **kwargs,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


# 28 batches an epoch, validated once an epoch unless said otherwise.
RUNS = {
    "full epochs": {"max_epochs": 3},
    "cut epochs": {"max_epochs": 3, "limit_train_batches": 10},
    "steps": {"max_steps": 70, "max_epochs": -1},
    "steps of cut epochs": {"max_steps": 35, "max_epochs": -1, "limit_train_batches": 10},
    "accumulation": {"max_epochs": 3, "limit_train_batches": 12, "accumulate_grad_batches": 4},
    "validation in between": {"max_epochs": 2, "val_check_interval": 7},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(name, make_data, tmp_path):
    saved = ModelCheckpoint(tmp_path / "at", "{epoch}-{step}", every_n_train_steps=1, save_top_k=-1)
    at_epoch_ends = ModelCheckpoint(tmp_path / "end", "{epoch}-{step}", save_top_k=-1, save_on_train_epoch_end=True)
    uninterrupted = fit(make_data(), tmp_path, callbacks=[saved, at_epoch_ends], **RUNS[name])
    total, per_step = len(uninterrupted.trained), RUNS[name].get("accumulate_grad_batches", 1)
    per_epoch = RUNS[name].get("limit_train_batches", 28)
    assert [batch_idx for _, batch_idx, _ in uninterrupted.trained] == [i % per_epoch for i in range(total)]
    paths = sorted((tmp_path / "at").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    # Early and late in the first and second epoch, and at their very ends.
    chosen = [paths[step - 1] for step in (1, per_epoch // per_step, per_epoch // per_step + 2) if step < len(paths)]
    for path in [*chosen, *(tmp_path / "end").iterdir()]:
        done = torch.load(path, weights_only=True)["global_step"] * per_step
        resumed = fit(make_data(), tmp_path, ckpt_path=path, **RUNS[name])
        assert resumed.trained == uninterrupted.trained[done:], path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stops", [(10, 20, 30, 45), (5, 12, 45), (10, 15, 20, 25, 27, 30, 45)])
def test_a_run_that_ended_and_is_given_more_steps_is_like_one_run(stops, make_data, tmp_path):
    """With max_steps Lightning counts one epoch too many at each of these resumes, at and between ends of epochs."""
    run = {"max_epochs": -1, "limit_train_batches": 10}
    uninterrupted = fit(make_data(), tmp_path, max_steps=stops[-1], **run).trained
    parts, path = [], None
    for part, max_steps in enumerate(stops):
        end = ModelCheckpoint(tmp_path / str(part), "saved", save_on_train_epoch_end=True)
        parts += fit(make_data(), tmp_path, ckpt_path=path, callbacks=[end], max_steps=max_steps, **run).trained
        path = tmp_path / str(part) / "saved.ckpt"
    assert [rows for _, _, rows in parts] == [rows for _, _, rows in uninterrupted]


@pytest.mark.filterwarnings("ignore")
def test_epochs_differ_unless_lightning_overfits(make_data, tmp_path):
    def first_of_epochs(**kwargs):
        trained = fit(make_data(), tmp_path, max_epochs=2, **kwargs).trained
        return [rows for _, batch_idx, rows in trained if batch_idx == 0]

    first, second = first_of_epochs()
    assert first != second
    first, second = first_of_epochs(overfit_batches=2)
    assert first == second


@pytest.mark.filterwarnings("ignore")
def test_lightning_validates_on_every_token(make_data, tmp_path):
    data = make_data()
    module = fit(data, tmp_path, max_epochs=1)
    targets = [t for batch in module.validated for row in batch for t in row if t != -100]
    assert targets == data.tokens["val"][1:].tolist()


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_another_tokenizer_is_refused(make_data, ranks_file, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "last")
    fit(make_data(), tmp_path, callbacks=[checkpoint], max_steps=1, limit_val_batches=0)
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["datamodule_hyper_parameters"]["context_length"] == 16
    assert stored["TextDataModule"]["tokenizer"]["name"] == "bytes"
    with pytest.raises(UserError, match=r"tokenizer 'bytes' of other tokens than 'small' .*small\.tiktoken"):
        fit(make_data(tokenizer=str(ranks_file)), tmp_path, ckpt_path=tmp_path / "last.ckpt", max_steps=2)


def test_state_is_enough_to_look_at_a_model_without_the_data(data):
    file = io.BytesIO()
    torch.save(data.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert tokenizer_from_state(state["tokenizer"]).encode("hello") == list(b"hello")
    assert state["validation_sequences"].dtype == torch.int32
    assert (state["validation_sequences"] == data.validation_sequences(8)).all()
    data.load_state_dict(state)


@pytest.mark.parametrize("change", ["merge", "special token"])
def test_tokenizers_of_the_same_size_or_the_same_ranks_are_told_apart(change, make_data, ranks_file, tmp_path):
    path = tmp_path / "small.tiktoken"
    if change == "merge":
        other = str(ranks_file)
        path.write_text(ranks_file.read_text().replace(b64encode(b"er").decode(), b64encode(b"ou").decode()))
    else:
        other = "bytes"
        path.write_text("".join(f"{b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)))
    data, changed = make_data(tokenizer=other), make_data(tokenizer=str(path))
    data.setup()
    changed.setup()
    with pytest.raises(UserError, match="use the one it was trained with"):
        changed.load_state_dict(data.state_dict())


def test_other_text_is_warned_of_on_a_resume(make_data, tmp_path):
    data = make_data()
    data.setup()
    state = data.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = make_data()
        same.setup()
        same.load_state_dict(state)
        same.load_state_dict({key: value for key, value in state.items() if key != "text"})  # an older checkpoint
    text = (tmp_path / "text.txt").read_bytes()
    (tmp_path / "text.txt").write_bytes(text.swapcase())
    changed = make_data()
    changed.setup()
    then, now = (zlib.crc32(one.tokens["train"][:].tobytes()) for one in (data, changed))
    with pytest.warns(UserWarning, match="goes on at its position in the new text") as warned:
        changed.load_state_dict(state)
    (warning,) = warned
    assert f"that was corpus text_txt with 3,600 tokens (checksum {then:08x})" in str(warning.message)
    assert f"this is corpus text_txt with 3,600 tokens (checksum {now:08x})" in str(warning.message)


@pytest.mark.filterwarnings("ignore")
def test_a_resume_on_other_text_warns_but_goes_on_and_validating_does_not_warn(make_data, tmp_path):
    saved = ModelCheckpoint(tmp_path / "at", "saved", every_n_train_steps=5)
    fit(make_data(), tmp_path, callbacks=[saved], max_steps=5, max_epochs=-1)
    (tmp_path / "other.txt").write_bytes(make_text(4000, seed=1))
    other = make_data(corpus=str(tmp_path / "other.txt"))
    with pytest.warns(UserWarning, match="that was corpus text_txt .* this is corpus other_txt"):
        module = fit(other, tmp_path, ckpt_path=tmp_path / "at" / "saved.ckpt", max_steps=8, max_epochs=-1)
    assert [batch for _, batch, _ in module.trained] == [5, 6, 7]
    loader = other.train_dataloader()
    loader.load_state_dict({"epoch": 0, "batch": 5, "skipped_epochs": 0, "global_batch_size": 8})
    assert module.trained[0][2] == next(iter(loader))[0].tolist()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The training text is not")
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        trainer.validate(Recorder(), other, ckpt_path=tmp_path / "at" / "saved.ckpt", verbose=False, weights_only=True)


def test_nothing_is_stored_before_setup(make_data):
    assert make_data().state_dict() == {}


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (4, 4), (12, 12), (1000, 12)])
def test_validation_sequences_are_spread_over_the_split(data, n, expected):
    data.tokens["val"] = np.arange(200, dtype=np.uint16)
    sequences = data.validation_sequences(n)
    assert sequences.shape == (expected, 16)
    assert sequences.dtype == torch.int64
    starts = sequences[:, 0]
    assert starts[0] == 0
    assert (sequences == starts[:, None] + torch.arange(16)).all()
    if expected > 1:
        assert starts[-1] == 200 - 16
        gaps = starts.diff()
        assert 16 <= gaps.min() <= gaps.max() <= gaps.min() + 1


def test_a_split_shorter_than_a_sequence_gives_what_it_has(data):
    data.tokens["val"] = np.arange(5, dtype=np.uint16)
    assert data.validation_sequences(8).tolist() == [[0, 1, 2, 3, 4]]


def test_without_validation_text_there_is_nothing_to_show(make_data):
    data = make_data(percents=[0, 0, 100])
    data.setup("test")
    assert data.validation_sequences(8).shape == (0, 16)
    assert data.state_dict()["validation_sequences"].shape == (0, 16)
    assert data.state_dict()["text"]["tokens"] == 0


def test_percents_of_a_text(make_data, tmp_path):
    data = make_data(percents=[20, 30, 50])
    data.setup()
    text = (tmp_path / "text.txt").read_bytes()
    parts = {"train": text[:800], "val": text[800:2000], "test": text[2000:]}
    assert {split: bytes(tokens[:].tolist()) for split, tokens in data.tokens.items()} == parts


def test_only_training_needs_training_text(make_data):
    data = make_data(percents=[0, 50, 50])
    data.setup("validate")
    data.setup("test")
    assert sum((targets != -100).sum().item() for _, targets in data.test_dataloader()) == 1999
    for stage in ("fit", None):
        with pytest.raises(UserError, match=r"The train split of corpus .*text\.txt is empty, since data\.percents is"):
            data.setup(stage)
    too_long = make_data(context_length=3600)
    too_long.setup("test")
    with pytest.raises(UserError, match="too few for sequences of 3600"):
        too_long.setup("fit")


@pytest.mark.parametrize("percents", [[], [100], [50, 50, 0, 0], [-1, 1, 100], [1, 1, 1], [50.0, 50, 0], [True, 99, 0]])
def test_shares_are_three_whole_numbers_that_sum_to_100(make_data, percents):
    with pytest.raises(UserError, match="must be three whole numbers of at least 0 that sum to 100"):
        make_data(percents=percents)


def test_ranks_come_from_the_trainer(data):
    class TwoRanks:
        global_rank, world_size, limit_train_batches, overfit_batches = 1, 2, 1.0, 0.0
        fit_loop = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop

    data.trainer = TwoRanks()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert (loader.rank, loader.world_size) == (1, 2)


def test_attributes_after_setup(data):
    assert set(data.tokens) == {"train", "val", "test"}
    assert all(isinstance(tokens, Tokens) for tokens in data.tokens.values())
    assert data.token_byte_lengths.tolist() == [1] * 256
    assert data.encoding.n_vocab == load_tokenizer("bytes").n_vocab


def test_all_bad_arguments_are_reported_at_once():
    with pytest.raises(UserError) as error:
        TextDataModule(corpus="", batch_size=0, context_length=0, seed=-1)
    for name in ("corpus", "batch_size", "context_length", "seed"):
        assert name in str(error.value)


@pytest.mark.parametrize("name", ["corpus", "tokenizer", "data_dir"])
@pytest.mark.parametrize("value", ["caf\udce9.txt", "a\0b"])
def test_names_that_cannot_be_printed_or_stored_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name} '.*' is no name in UTF-8"):
        TextDataModule(**{name: value})


def test_context_length_has_to_be_set_before_the_data_is_prepared(make_data):
    data = make_data(context_length=None)
    with pytest.raises(UserError, match="context_length is not set"):
        data.prepare_data()
    data.context_length = 16
    data.prepare_data()


def test_too_long_a_context_names_corpus_size_and_fix(make_data, tmp_path):
    data = make_data(context_length=3600)
    data.prepare_data()
    with pytest.raises(UserError, match=r"text\.txt has 3600 tokens, too few for sequences of 3600: set a smaller"):
        data.setup()
    shorter = make_data(context_length=3599, batch_size=1)
    shorter.setup()
    assert len(list(shorter.train_dataloader())) == 1


def test_too_large_a_batch_names_corpus_and_fix(make_data):
    data = make_data(batch_size=1000)
    data.setup()
    with pytest.raises(UserError, match=r"text\.txt .3600 tokens. is too small for a batch of 1000 × 1 .* batch_size"):
        data.train_dataloader()

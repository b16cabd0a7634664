"""docs/checkpoints.md: other projects' networks in analyze.py, generate.py and train.py, and ours written for them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.interop import save_huggingface, save_plain
from gpt_lightning.model import GPT, GPTConfig
from tests.command_line import TINY
from tests.conftest import REPO, shared_file
from tests.whole_runs.conftest import LAST, error_line, loss_by_hand, printed_loss

SIZES = {"n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 32, "vocab_size": 256}
UNCHANGED = ["--model.learning_rate=1e-12", "--trainer.max_steps=1"]  # so that the weights stay as they came


def network(**options) -> GPT:
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(**SIZES | options))
    with torch.no_grad():
        for weight in gpt.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return gpt


@pytest.fixture
def nanogpt(tmp_path) -> Path:
    """A ckpt.pt as nanoGPT's train.py writes it: linear layers are (out, in), queries, keys and values one layer."""
    torch.manual_seed(0)
    width = SIZES["d_model"]
    shapes = {"wte.weight": (256, width), "wpe.weight": (32, width), "ln_f.weight": (width,), "ln_f.bias": (width,)}
    for layer in range(2):
        for name, outputs, inputs in (
            ("attn.c_attn", 3 * width, width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            shapes |= {f"h.{layer}.{name}.weight": (outputs, inputs), f"h.{layer}.{name}.bias": (outputs,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{norm}.{part}": (width,) for part in ("weight", "bias")}
    weights = {f"transformer.{name}": torch.randn(shape) * 0.2 for name, shape in shapes.items()}
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": width, "block_size": 32, "vocab_size": 256}
    content = {"model": weights, "model_args": sizes | {"dropout": 0.0, "bias": True}, "iter_num": 7}
    torch.save(content, tmp_path / "ckpt.pt")
    return tmp_path / "ckpt.pt"


def test_nanogpts_checkpoint_is_sampled_from_analysed_and_trained_on(must_work, fit, nanogpt, tmp_path):
    out, _ = must_work("generate.py", "--checkpoint=ckpt.pt", "--tokenizer=bytes", "--prompt=the cat")
    assert out.startswith("the cat")
    options = ["--tokenizer=bytes", "--no-ablation", "--output=analysis"]
    out, _ = must_work("analyze.py", "--checkpoint=ckpt.pt", *options)
    assert "4 heads in 2 layers" in out
    assert (tmp_path / "analysis/report.html").is_file()
    fit("--model.init_from=ckpt.pt", *UNCHANGED)
    content = torch.load(tmp_path / LAST, weights_only=True)
    assert content["hyper_parameters"]["gpt"]["activation"] == "gelu_erf"  # nanoGPT's, which it was trained with
    theirs = torch.load(nanogpt, weights_only=True)["model"]["transformer.wte.weight"]
    torch.testing.assert_close(content["state_dict"]["model.token_embedding.weight"], theirs, atol=1e-6, rtol=1e-6)


class Malicious:
    def __reduce__(self):
        return exec, ("open('executed', 'w')",)


def test_nanogpts_checkpoint_is_loaded_as_plain_data_only(main, nanogpt, tmp_path):
    content = torch.load(nanogpt, weights_only=True)
    torch.save(content | {"config": Malicious()}, nanogpt)
    for call in (
        ("generate.py", "--checkpoint=ckpt.pt", "--tokenizer=bytes"),
        ("analyze.py", "--checkpoint=ckpt.pt", "--tokenizer=bytes"),
        ("train.py", "fit", *TINY, "--model.init_from=ckpt.pt"),
    ):
        status, _, err = main(*call)
        assert status == 1
        assert "more than plain data" in error_line(err)
    assert not (tmp_path / "executed").exists()


# ---- Hugging Face's GPT-2


def test_weights_in_several_files_are_one_network(main, tmp_path):
    (file,) = [file for file in save_huggingface(network(), tmp_path / "one") if file.suffix == ".safetensors"]
    weights = load_file(file)
    names = sorted(weights)
    shutil.copytree(tmp_path / "one", tmp_path / "several")
    (tmp_path / "several" / file.name).unlink()
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({weight: weights[weight] for weight in part}, tmp_path / "several" / name)
        places |= dict.fromkeys(part, name)
    (tmp_path / "several/model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    args = ["--tokenizer=bytes", "--prompt=the cat", "--temperature=0"]
    texts = [main("generate.py", f"--checkpoint={name}", *args)[1] for name in ("one", "several")]
    assert texts[0] == texts[1]
    assert texts[0].startswith("the cat")


def test_weights_that_can_run_code_are_not_read(main, tmp_path):
    save_huggingface(network(), tmp_path / "theirs")
    (tmp_path / "theirs/model.safetensors").rename(tmp_path / "theirs/pytorch_model.bin")
    status, _, err = main("generate.py", "--checkpoint=theirs", "--tokenizer=bytes")
    assert status == 1
    assert "model.safetensors" in error_line(err)
    assert "can run code" in error_line(err)


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json"])
def test_the_tokenizer_in_the_directory_is_used_and_without_one_asked_for(main, must_work, tmp_path, form):
    tokenizers = pytest.importorskip("tokenizers")
    learnt = tokenizers.ByteLevelBPETokenizer()
    learnt.train_from_iterator(["the cat sat on the mat " * 50], 300, special_tokens=["<|endoftext|>"])
    save_huggingface(network(vocab_size=300), tmp_path / "theirs")
    args = ["--checkpoint=theirs", "--prompt=the cat sat", "--tokens=25"]
    status, _, err = main("generate.py", *args)
    assert status == 1
    assert "--tokenizer" in error_line(err)
    if form == "tokenizer.json":
        learnt.save(str(tmp_path / "theirs" / form))
    else:
        learnt.save_model(str(tmp_path / "theirs"))
        assert (tmp_path / "theirs/merges.txt").is_file()
    # As bytes the prompt would take 11 of the 32 tokens, and leave no room for 25.
    out, _ = must_work("generate.py", *args)
    assert out.startswith("the cat sat")


@pytest.mark.parametrize("n_ids", [50257, 50304])
def test_as_many_ids_as_gpt2_has_are_gpt2s(must_work, tmp_path, monkeypatch, n_ids):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_file("tiktoken_cache")))
    save_huggingface(network(n_layer=1, vocab_size=n_ids), tmp_path / "theirs")
    out, _ = must_work("generate.py", "--checkpoint=theirs", "--prompt=The import statement", "--tokens=29")
    assert out.startswith("The import statement")


# ---- training and testing


def test_training_begins_with_a_checkpoint_of_ours_and_its_sizes(main, fit, last, tmp_path):
    """The command's options describe another network."""
    fit(f"--model.init_from={last}", "--model.gpt.n_layer=1", "--model.gpt.d_model=8", *UNCHANGED)
    ours, theirs = (torch.load(path, weights_only=True)["state_dict"] for path in (tmp_path / LAST, last))
    for name in (name for name in theirs if name.startswith("model.")):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-6)
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 1


def test_bpe_means_the_tokenizer_of_the_network_that_a_run_begins_with(fit, tmp_path):
    old = torch.load(REPO / "tests/old_checkpoints/bpe.ckpt", weights_only=True)
    (tmp_path / "other.txt").write_text("Here other pairs of letters are frequent: zyx wvu. " * 200)
    name = old["datamodule_hyper_parameters"]["tokenizer"]
    fit(
        f"--model.init_from={REPO / 'tests/old_checkpoints/bpe.ckpt'}",
        f"--data.tokenizer={name}",
        "--data.context_length=16",
        *UNCHANGED,
        corpus="other.txt",
    )
    ours = torch.load(tmp_path / LAST, weights_only=True)["TextDataModule"]["tokenizer"]
    assert name.startswith("bpe:")
    assert torch.equal(ours["ranks"], old["TextDataModule"]["tokenizer"]["ranks"])


def test_a_network_from_elsewhere_is_judged_as_it_is_on_the_part_that_is_asked_for(must_work, tmp_path):
    gpt = network()
    save_plain(gpt, tmp_path / "plain", load_tokenizer("bytes"))
    text = bytes(range(48, 123)) * 20
    (tmp_path / "text.txt").write_bytes(text)
    for percents, tested in ((["--data.percents=[0,0,100]"], text), ([], text[len(text) * 95 // 100 :])):
        options = [*TINY, "--data.corpus=text.txt", "--trainer.enable_progress_bar=false"]
        out, _ = must_work("train.py", "test", *options, "--model.init_from=plain", *percents)
        assert printed_loss(out) == pytest.approx(loss_by_hand(gpt.eval(), tested, 32), rel=1e-5)
    assert not (tmp_path / "runs").exists()


# ---- to elsewhere


@pytest.mark.parametrize("form", ["huggingface", "plain"])
def test_a_run_is_written_in_another_form_with_its_tokenizer(module_main, main, last, tmp_path, form):
    format_ = [] if form == "huggingface" else ["--format", form]
    status, out, err = module_main("gpt_lightning.interop", "--checkpoint", last, "--output", "other", *format_)
    assert status == 0, err
    written = {path.name for path in (tmp_path / "other").iterdir()}
    weights = "model.safetensors" if form == "huggingface" else "weights.safetensors"
    assert {"config.json", weights, "gpt_lightning_tokenizer.json"} <= written
    assert {Path(line).name for line in out.splitlines()} == written
    args = ["--prompt=the cat", "--temperature=0"]
    texts = [main("generate.py", f"--checkpoint={where}", *args)[1] for where in (last, "other")]
    assert texts[0] == texts[1]
    assert texts[0].startswith("the cat")
    if form == "huggingface":
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "other").eval()
        assert theirs.config.vocab_size == 256


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"position": "rope"}, "position"),
        ({"norm": "rms"}, "norm"),
        ({"qk_norm": True}, "qk_norm"),
        ({"activation": "relu_squared"}, "activation"),
    ],
)
def test_what_gpt2_cannot_express_is_refused_by_name_and_travels_as_plain(module_main, tmp_path, option, name):
    save_plain(network(**option), tmp_path / "ours", load_tokenizer("bytes"))
    args = ["--checkpoint", "ours", "--output", "other"]
    status, _, err = module_main("gpt_lightning.interop", *args)
    assert status == 1
    assert name in error_line(err)
    assert not (tmp_path / "other").exists()
    status, _, err = module_main("gpt_lightning.interop", *args, "--format", "plain")
    assert status == 0, err
    assert json.loads((tmp_path / "other/config.json").read_text()).items() >= option.items()


def test_bad_input_to_interop_is_one_sentence(module_main):
    for args, status in ((["--checkpoint=nowhere", "--output=x"], 1), (["--checkpoint=nowhere"], 2)):
        actual, _, err = module_main("gpt_lightning.interop", *args)
        assert actual == status
        assert error_line(err)

"""Checkpoints from and to other projects, compared with `transformers` in both directions; our plain directory too."""

import base64
import json
import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt_lightning.data.tokenizer import encode_bytes, load_tokenizer, same_tokenizer, tokenizer_state
from gpt_lightning.decoding.generation import generate
from gpt_lightning.decoding.options import Sampling
from gpt_lightning.errors import UserError
from gpt_lightning.interop import load_huggingface, load_nanogpt, load_plain, save_huggingface, save_plain
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from gpt_lightning.interop.tokenizer import find_tokenizer, save_tokenizer
from gpt_lightning.model import GPT, GPTConfig, padded_vocabulary
from tests.conftest import REPO

transformers = pytest.importorskip("transformers")

SHAPES = {"small": (1, 2, 16, 12, 50), "deep": (3, 1, 8, 7, 300), "wide": (2, 8, 64, 20, 65)}


def their_network(shape=(2, 4, 32, 16, 70), tied=True, activation="gelu_new"):
    """Hugging Face's GPT-2 with random weights, biases and norms included."""
    n_layer, n_head, n_embd, n_positions, vocab_size = shape
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "n_positions": n_positions}
    options = {"tie_word_embeddings": tied, "activation_function": activation}
    config = transformers.GPT2Config(**sizes, vocab_size=vocab_size, **options)
    torch.manual_seed(0)
    return randomised(transformers.GPT2LMHeadModel(config).eval())


def randomised(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network


def write_ranks(path: Path, ids=range(256)) -> None:
    """Write a file of tiktoken ranks that gives each byte one of `ids`."""
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(bytes([byte])), i) for byte, i in enumerate(ids)))


def random_ids(vocab_size, length, batch=2):
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def assert_same_logits(ours, theirs):
    tokens = random_ids(ours.config.vocab_size, ours.config.context_length)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.fixture
def saved(tmp_path):
    """A directory with a checkpoint of Hugging Face's."""
    their_network().save_pretrained(tmp_path)
    return tmp_path


# ---- Hugging Face


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_their_checkpoint_gives_their_logits(tmp_path, shape, tied):
    theirs = their_network(SHAPES[shape], tied)
    theirs.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    assert not ours.training
    assert ours.config.tie_weights == tied
    assert (ours.head.weight is ours.token_embedding.weight) == tied
    assert_same_logits(ours, theirs)


@pytest.mark.parametrize(("activation", "name"), [("gelu", "gelu_erf"), ("gelu_pytorch_tanh", "gelu")])
def test_either_form_of_gelu_is_kept(tmp_path, activation, name):
    theirs = their_network(activation=activation)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_huggingface(tmp_path / "theirs")
    assert ours.config.activation == name
    assert_same_logits(ours, theirs)
    save_huggingface(ours, tmp_path / "back")
    assert_same_logits(ours, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval())


def test_their_checkpoint_in_several_files(tmp_path):
    theirs = their_network()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same_logits(load_huggingface(tmp_path), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_their_checkpoint_in_half_precision(tmp_path, dtype):
    theirs = their_network().to(dtype)
    theirs.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    assert ours.head.weight.dtype == torch.float32
    assert_same_logits(ours, theirs.float())


def test_names_and_masks_of_the_first_conversion(saved):
    theirs = load_file(saved / "model.safetensors")
    old = {name.removeprefix("transformer."): weight for name, weight in theirs.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 16, 16), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    save_file(old, saved / "model.safetensors")
    assert_same_logits(load_huggingface(saved), their_network())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_our_network_loads_unchanged_and_gives_our_logits(tmp_path, shape, bias, tied):
    torch.manual_seed(0)
    ours = randomised(GPT(GPTConfig(*SHAPES[shape], bias=bias, tie_weights=tied))).eval()
    files = save_huggingface(ours, tmp_path / "new")
    assert sorted(files) == sorted((tmp_path / "new").iterdir())
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.tie_word_embeddings == tied
    assert_same_logits(ours, theirs.eval())


def test_there_and_back_is_the_same(tmp_path):
    ours = randomised(GPT(GPTConfig(2, 2, 16, 12, 50)))
    save_huggingface(ours, tmp_path)
    back = load_huggingface(tmp_path)
    assert all(torch.equal(back.state_dict()[name], weight) for name, weight in ours.state_dict().items())


def test_both_write_the_same_two_hundred_tokens(tmp_path):
    theirs = their_network((2, 4, 32, 256, 70))
    theirs.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    prompt = random_ids(70, 5, batch=1)
    with torch.no_grad():
        expected = theirs.generate(prompt, max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert len(expected[0].unique()) > 5
    written = islice(generate(ours, prompt, Sampling(temperature=0)), 200)
    assert [int(token) for token in written] == expected[0, 5:].tolist()


@pytest.mark.parametrize(
    "option", [{"position": "rope"}, {"norm": "rms"}, {"qk_norm": True}, {"activation": "relu_squared"}]
)
def test_a_network_with_an_option_that_gpt2_lacks_is_not_written(tmp_path, option):
    (name,) = option
    with pytest.raises(UserError, match=f"GPT-2 has no {name}"):
        save_huggingface(GPT(GPTConfig(1, 2, 16, 12, 50, **option)), tmp_path)
    assert not list(tmp_path.iterdir())


def change_config(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama"}, "model_type: 'llama', which is not GPT-2's"),
        ({"activation_function": "relu"}, "activation_function: 'relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"n_inner": 7}, "n_inner: 7"),
        ({"n_embd": "wide"}, "does not give the sizes of a network"),
        ({"n_head": 5}, "must be a multiple of n_head"),
        ({"n_layer": 10**7}, "holds 28 weights, too few for 10,000,000 layers"),
        ({"n_layer": 3}, "has no weight transformer.h.2"),
        ({"n_layer": 1}, "has transformer.h.1"),
        ({"vocab_size": 71}, r"wte.weight of shape \(70, 32\), but its sizes ask for \(71, 32\)"),
        ({"vocab_size": 10**7}, "its sizes ask for"),
        ({"n_embd": 10**9}, "must be from 1 to 16,777,216"),
        ({"n_positions": 2**70}, "must be from 1 to 16,777,216"),
        ({"n_embd": 2**24}, "its sizes ask for"),
        ({"n_layer": 2.0}, "n_layer is 2.0: sizes must be whole numbers"),
        ({"tie_word_embeddings": False}, "has no weight lm_head.weight"),
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(saved, values, message):
    change_config(saved, **values)
    with pytest.raises(UserError, match=message):
        load_huggingface(saved)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"[" * 100_000])
def test_a_config_that_is_no_json_object_is_one_sentence(saved, content):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        load_huggingface(saved)


def test_one_weight_of_a_late_layer_does_not_make_a_deep_network(saved):
    weights = load_file(saved / "model.safetensors")
    save_file(weights | {"transformer.h.9999999.ln_1.weight": torch.ones(32)}, saved / "model.safetensors")
    change_config(saved, n_layer=10**7)
    with pytest.raises(UserError, match="holds 29 weights, too few for 10,000,000 layers"):
        load_huggingface(saved)


def test_missing_files_are_named(saved, tmp_path):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"There is no model\.safetensors in .* can run code"):
        load_huggingface(saved)
    (saved / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(UserError, match=r"gone\.safetensors"):
        load_huggingface(saved)
    (saved / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(UserError, match="has no weight_map from weights to files beside it"):
        load_huggingface(saved)
    with pytest.raises(UserError, match=r"There is no .*nowhere.config\.json"):
        load_huggingface(tmp_path / "nowhere")


def lying_header(data: bytes) -> bytes:
    """A file whose header says that a weight lies beyond its end."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    last = max((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"][1])
    header[last]["shape"][0] *= 1000
    header[last]["data_offsets"][1] += 10**9
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: data[:4],
        lambda data: b"",
        lambda data: (2**60).to_bytes(8, "little") + data[8:],
        lying_header,
    ],
)
def test_damaged_weights_are_one_sentence(saved, damage):
    path = saved / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="is not a complete safetensors file"):
        load_huggingface(saved)


def test_quantised_weights_are_refused(saved):
    weights = load_file(saved / "model.safetensors")
    weights["transformer.h.0.attn.c_attn.weight"] = weights["transformer.h.0.attn.c_attn.weight"].to(torch.int8)
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(UserError, match=r"c_attn\.weight is stored as torch\.int8"):
        load_huggingface(saved)


# ---- nanoGPT


def nanogpt_checkpoint(prefix="", bias=True):
    """What nanoGPT's train.py would save, with linear layers as (out, in), and the same network of Hugging Face's."""
    theirs = their_network(activation="gelu")  # nanoGPT's is exact, GPT-2's the tanh form
    if not bias:
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    weights = {name: w.T.contiguous() if name.endswith(linear) else w for name, w in theirs.state_dict().items()}
    if not bias:
        weights = {name: w for name, w in weights.items() if not name.endswith("bias")}
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16, "vocab_size": 70, "dropout": 0.0, "bias": bias}
    model = {prefix + name: w for name, w in weights.items()}
    return {"model": model, "model_args": sizes, "iter_num": 7, "best_val_loss": torch.tensor(1.5)}, theirs


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_nanogpts_checkpoint_gives_its_logits(tmp_path, prefix, bias):
    checkpoint, theirs = nanogpt_checkpoint(prefix, bias)
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    ours = load_nanogpt(tmp_path / "ckpt.pt")
    assert ours.config.bias == bias
    assert_same_logits(ours, theirs)


class Malicious:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_a_nanogpt_file_that_would_run_code_is_refused(tmp_path):
    checkpoint, _ = nanogpt_checkpoint()
    torch.save(checkpoint | {"config": Malicious()}, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="holds more than plain data"):
        load_nanogpt(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("model_args"), "it has no model or no model_args"),
        (lambda c: c.update(model_args=7), "it has no model or no model_args"),
        (lambda c: c["model_args"].pop("n_head"), "does not say n_head"),
        (lambda c: c["model_args"].update(n_layer=1), "has transformer.h.1"),
        (lambda c: c["model_args"].update(n_layer=10**7), "too few for 10,000,000 layers"),
        (lambda c: c["model_args"].update(n_embd=10**9), "must be from 1 to"),
        (lambda c: c["model_args"].update(n_embd=32.0), "n_embd|d_model is 32.0"),
        (lambda c: c["model"].update({"transformer.wte.weight": torch.zeros(1, 1).expand(70, 32)}), "not a complete"),
        (lambda c: c["model"].update({"transformer.wte.weight": torch.zeros(70, 32).to_sparse()}), "not a complete"),
        (lambda c: c["model"].update({"transformer.wte.weight": torch.zeros(70, 32).char()}), "not a complete"),
        (lambda c: c["model"].update({"transformer.wte.weight": 3}), "wte.weight' that is not a complete tensor of"),
        (lambda c: c["model"].update({7: torch.zeros(1)}), "a weight 7 that is not"),
        (lambda c: c["model"].pop("transformer.ln_f.weight"), "has no weight transformer.ln_f.weight"),
    ],
)
def test_a_nanogpt_file_that_does_not_fit_is_one_sentence(tmp_path, change, message):
    checkpoint, _ = nanogpt_checkpoint()
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match=message):
        load_nanogpt(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"model": 1})])
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path, content):
    (tmp_path / "ckpt.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"ckpt\.pt"):
        load_nanogpt(tmp_path / "ckpt.pt")


# ---- our plain directory


@pytest.mark.parametrize("option", [{}, {"position": "rope", "tie_weights": False}, {"norm": "rms", "bias": False}])
def test_plain_there_and_back_is_the_same(tmp_path, option):
    ours = randomised(GPT(GPTConfig(2, 2, 16, 12, 50, **option)))
    save_plain(ours, tmp_path)
    back = load_plain(tmp_path)
    assert back.config == ours.config
    assert (back.head.weight is back.token_embedding.weight) == ours.config.tie_weights
    assert all(torch.equal(back.state_dict()[name], weight) for name, weight in ours.state_dict().items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_layer": 3}, "has no weight blocks.2.norm1.weight"),
        ({"n_layer": 10**7}, "holds 28 weights, too few for 10,000,000 layers"),
        ({"context_length": 10**12, "position": "rope"}, "must be from 1 to 16,777,216"),
        ({"bias": 3}, "bias is 3"),
        ({"tie_weights": "no"}, "tie_weights is 'no'"),
        ({"d_model": 32}, r"token_embedding.weight of shape \(50, 16\), but its sizes ask for \(50, 32\)"),
        ({"colour": "red"}, "does not give the sizes of a network: .*colour"),
        ({"d_model": None}, "d_model is None"),
        ({"position": "rope"}, "has position_embedding.weight, for which"),
    ],
)
def test_a_plain_config_that_does_not_fit_is_one_sentence(tmp_path, values, message):
    save_plain(GPT(GPTConfig(2, 2, 16, 12, 50)), tmp_path)
    change_config(tmp_path, **values)
    with pytest.raises(UserError, match=message):
        load_plain(tmp_path)


# ---- tokenizers


TEXT = "The quick brown fox doesn't jump over 1,234 lazy dogs, naïve as they are — 你好! \n\n  def f(x):\n\treturn x"


@pytest.fixture(scope="module")
def trained_tokenizer(tmp_path_factory):
    """A byte-level BPE from the `tokenizers` library: a directory for each of its two forms, and the ids of TEXT."""
    tokenizers = pytest.importorskip("tokenizers")
    directory = tmp_path_factory.mktemp("tokenizer")
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT * 20, "the cat sat on the mat " * 50], 400, special_tokens=["<|endoftext|>"])
    for form in ("json", "pair"):
        (directory / form).mkdir()
    trained.save(str(directory / "json" / "tokenizer.json"))
    trained.save_model(str(directory / "pair"))
    return directory, trained.encode(TEXT).ids


@pytest.mark.parametrize("form", ["json", "pair"])
def test_a_trained_tokenizer_gives_the_same_ids(trained_tokenizer, form):
    directory, expected = trained_tokenizer
    encoding = find_tokenizer(directory / form)
    assert len(expected) < len(TEXT)
    assert encode_bytes(encoding, TEXT.encode()).tolist() == expected
    assert encoding.decode(expected) == TEXT


def test_our_tokenizer_there_and_back_is_the_same(tmp_path, trained_tokenizer):
    for encoding in (load_tokenizer("bytes"), find_tokenizer(trained_tokenizer[0] / "json")):
        save_tokenizer(encoding, tmp_path)
        assert same_tokenizer(tokenizer_state(find_tokenizer(tmp_path)), tokenizer_state(encoding))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model"].update(type="WordPiece"),
        lambda t: t.update(normalizer={"type": "Lowercase"}),
        lambda t: t["pre_tokenizer"].update(add_prefix_space=True),
        lambda t: t["pre_tokenizer"].update(type="Whitespace"),
        lambda t: t.update(pre_tokenizer=None),
        lambda t: t["model"]["merges"].reverse(),
        lambda t: t["model"]["vocab"].pop("a"),
        lambda t: t.update(model=7),
    ],
)
def test_another_kind_of_tokenizer_is_refused(tmp_path, trained_tokenizer, change):
    content = json.loads((trained_tokenizer[0] / "json" / "tokenizer.json").read_text())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not GPT-2's kind of byte-level BPE"):
        find_tokenizer(tmp_path)


def test_without_a_tokenizer_the_message_asks_for_one(saved, bytes_directory, tmp_path):
    with pytest.raises(UserError, match=r"has 70 ids, fewer than there are bytes: there is no tokenizer for it"):
        load_checkpoint(saved, "bytes")
    with pytest.raises(UserError, match=r"Nothing beside .* which tokenizer its 319 ids belong to: give --tokenizer"):
        load_checkpoint(bytes_directory)
    their_network((1, 2, 16, 12, 256)).save_pretrained(tmp_path / "small")
    write_ranks(tmp_path / "ranks")
    with pytest.raises(UserError, match=r"'ranks' has 257 ids, but the network in .* 256"):
        load_checkpoint(tmp_path / "small", str(tmp_path / "ranks"))


def test_bytes_in_another_order_keep_their_ids(tmp_path):
    """A tokenizer of GPT-2's first 256 ids: as many as `bytes` has, but in another order."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator([""], 256)
    theirs.save(str(tmp_path / "tokenizer.json"))
    encoding = find_tokenizer(tmp_path)
    assert encoding.n_vocab == 256
    assert encode_bytes(encoding, b"Hello").tolist() == theirs.encode("Hello").ids != list(b"Hello")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(ranks="YQ== 0\n"),
        lambda state: state.update(ranks=state["ranks"].replace(" 7\n", " 8\n")),
        lambda state: state.update(ranks=state["ranks"].replace(" 7\n", " -7\n")),
        lambda state: state.update(ranks=state["ranks"].replace(" 7\n", " 99999999999\n")),
        lambda state: state.update(special_tokens={"<|endoftext|>": 7}),
        lambda state: state.update(special_tokens={"<|endoftext|>": 2**70}),
        lambda state: state.update(name=3),
        lambda state: state.pop("pat_str"),
    ],
)
def test_a_damaged_tokenizer_is_one_sentence(tmp_path, change):
    path = save_tokenizer(load_tokenizer("bytes"), tmp_path)
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"The tokenizer in .* is not"):
        find_tokenizer(tmp_path)


def test_ids_without_a_token_are_never_sampled():
    gpt = randomised(GPT(GPTConfig(1, 2, 16, 64, 320))).eval()
    prompt = torch.zeros(8, 1, dtype=torch.long)
    assert max(int(token.max()) for token in islice(generate(gpt, prompt, Sampling(temperature=1)), 40)) >= 256
    assert max(int(token.max()) for token in islice(generate(gpt, prompt, Sampling(1), n_ids=256), 40)) < 256


# ---- as a user


@pytest.fixture
def bytes_directory(tmp_path):
    """A GPT-2 of Hugging Face's over bytes, with 63 unused ids."""
    theirs = their_network((2, 2, 16, 32, 256 + 63))
    theirs.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_text_from_their_checkpoint(main, bytes_directory):
    arguments = ("--checkpoint", bytes_directory, "--tokenizer", "bytes", "--prompt", "ab")
    status, output, errors = main("generate.py", *arguments)
    assert status == 0, errors
    assert output.startswith("ab")


def test_their_checkpoint_analysed(main, bytes_directory):
    arguments = ("--checkpoint", bytes_directory, "--tokenizer", "bytes", "--no-ablation")
    status, output, errors = main("analyze.py", *arguments)
    assert status == 0, errors
    assert "untrained" not in output
    assert (bytes_directory / "analysis" / "report.html").is_file()


@pytest.fixture
def options(corpus_file, tmp_path):
    """Arguments of `train.py` for training their network on a small text."""
    paths = [f"--data.corpus={corpus_file}", f"--data.data_dir={tmp_path}", f"--runs_dir={tmp_path / 'runs'}"]
    return [*paths, "--data.batch_size=2", "--trainer.accelerator=cpu", "--trainer.limit_val_batches=2"]


def test_training_begins_with_their_weights_and_resumes(main, bytes_directory, options, tmp_path):
    fit = ["train.py", "fit", f"--model.init_from={bytes_directory}", *options, "--model.learning_rate=1e-12"]
    status, output, errors = main(*fit, "--trainer.max_steps=2")
    assert status == 0, errors
    assert "2 layers × 2 heads × 16 wide" in output
    theirs = load_huggingface(bytes_directory).state_dict()
    ours = load_checkpoint(tmp_path / "runs/default/version_0/checkpoints/last.ckpt").model
    assert ours.config.vocab_size == 256 + 63
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-6, rtol=1e-6)

    bytes_directory.rename(tmp_path / "elsewhere")  # the run has its own weights by now
    status, output, errors = main(*fit, "--trainer.max_steps=3", "--ckpt_path=last")
    assert status == 0, errors
    assert "resumed at step 2" in output


def test_their_network_is_judged_without_training(main, bytes_directory, options):
    status, output, errors = main("train.py", "validate", f"--model.init_from={bytes_directory}", *options)
    assert status == 0, errors
    assert "val/perplexity" in output


def test_training_with_another_tokenizer_is_refused(main, saved, options):
    status, _, errors = main("train.py", "fit", f"--model.init_from={saved}", *options)
    assert status != 0
    assert "has 70 ids, fewer than there are bytes" in errors
    assert "Traceback" not in errors


def test_training_with_other_tokens_leaves_no_run_behind(main, tmp_path, options):
    """As many ids, but each stands for another byte."""
    write_ranks(tmp_path / "backwards", reversed(range(256)))
    save_plain(GPT(GPTConfig(1, 2, 16, 32, 257)), tmp_path / "one", load_tokenizer(str(tmp_path / "backwards")))
    write_ranks(tmp_path / "forwards")
    fit = ["train.py", "fit", f"--model.init_from={tmp_path / 'one'}", f"--data.tokenizer={tmp_path / 'forwards'}"]
    status, _, errors = main(*fit, *options)
    assert status != 0
    assert "of other tokens than" in errors
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("version_*"))


def test_a_vocabulary_that_was_rounded_up_keeps_its_size(tmp_path, trained_tokenizer):
    encoding = find_tokenizer(trained_tokenizer[0] / "json")
    padded = padded_vocabulary(encoding.n_vocab)
    assert padded > encoding.n_vocab  # or this would prove nothing
    ours = randomised(GPT(GPTConfig(2, 2, 16, 12, padded))).eval()
    save_huggingface(ours, tmp_path, encoding)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == padded
    assert_same_logits(ours, transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval())
    loaded = load_checkpoint(tmp_path)
    assert (loaded.model.config.vocab_size, loaded.encoding.n_vocab) == (padded, encoding.n_vocab)


@pytest.mark.parametrize(("n_ids", "end"), [(50257, 50256), (50304, 50256), (50303, None)])
def test_without_a_tokenizer_as_many_ids_as_gpt2_end_a_text_as_gpt2(tmp_path, n_ids, end):
    save_huggingface(GPT(GPTConfig(1, 1, 2, 2, n_ids)), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == end


def test_the_id_that_ends_a_text_is_the_tokenizers(tmp_path, trained_tokenizer):
    encoding = find_tokenizer(trained_tokenizer[0] / "json")
    gpt = GPT(GPTConfig(1, 2, 16, 12, 60_000))
    save_huggingface(gpt, tmp_path / "one", encoding)
    assert json.loads((tmp_path / "one/config.json").read_text())["eos_token_id"] == 0
    save_huggingface(gpt, tmp_path / "two")
    assert json.loads((tmp_path / "two/config.json").read_text())["eos_token_id"] is None


@pytest.mark.parametrize("form", ["huggingface", "plain"])
def test_a_run_travels(bytes_directory, tmp_path, form):
    """The command line writes a checkpoint as a directory with the network and its tokenizer."""
    command = [sys.executable, "-m", "gpt_lightning.interop", "--checkpoint", tmp_path / "one", "--format", form]
    gpt = load_huggingface(bytes_directory)
    save_plain(gpt, tmp_path / "one", load_tokenizer("bytes"))
    done = subprocess.run([*command, "--output", tmp_path / "two"], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert {Path(line) for line in done.stdout.splitlines()} == set((tmp_path / "two").iterdir())
    loaded = load_checkpoint(tmp_path / "two")
    assert loaded.encoding.n_vocab == 256
    assert all(torch.equal(loaded.model.state_dict()[name], w) for name, w in gpt.state_dict().items())

"""generate.py: what each of its options promises."""

import pytest
import torch

from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.interop import save_huggingface, save_plain
from gpt_lightning.model import GPT, GPTConfig
from tests.whole_runs.conftest import error_line, ranks

PROMPT = "the cat"


@pytest.fixture
def generate(must_work, last):
    """Continue the prompt; returns the text without the line break at its end, and standard error."""

    def run(*options: object, checkpoint: object = last, prompt: str = PROMPT) -> tuple[str, str]:
        out, err = must_work("generate.py", f"--checkpoint={checkpoint}", f"--prompt={prompt}", *options)
        return out.removesuffix("\n"), err

    return run


def test_as_many_tokens_as_asked_for_and_by_default_to_the_end_of_the_context(generate):
    """Tokens are bytes, of which several may show as one character, so stderr is asked how many there were."""
    for options, expected in ((["--tokens=5"], 5), ([], 32 - len(PROMPT))):
        text, said = generate(*options)
        assert text.startswith(PROMPT)
        assert said.strip().splitlines()[-1].startswith(f"{expected} tokens, ")


def test_another_seed_gives_another_text(generate):
    texts = {generate(f"--seed={seed}", "--temperature=2")[0] for seed in (1, 2, 3)}
    assert len(texts) == 3


@pytest.mark.parametrize("option", ["--top_k=1", "--top_p=1e-9", "--min_p=1"])
def test_leaving_only_the_likeliest_token_is_temperature_0(generate, option):
    likeliest, _ = generate("--temperature=0", "--seed=1")
    assert generate("--temperature=5", option, "--seed=2")[0] == likeliest
    assert generate("--temperature=5", "--seed=2")[0] != likeliest


def test_a_repetition_penalty_makes_repetitions_rarer(generate):
    plain, _ = generate("--temperature=0")
    penalised, _ = generate("--temperature=0", "--repetition_penalty=100")
    assert len(set(penalised)) > len(set(plain))


def test_text_ends_before_a_stop_and_one_of_several_is_enough(generate):
    uncut, _ = generate("--seed=5")
    new = uncut[len(PROMPT) :]
    stop = new[3:5]
    expected = PROMPT + new[: new.index(stop)]
    assert generate("--seed=5", f"--stop={stop}")[0] == expected
    assert generate("--seed=5", "--stop=not there", f"--stop={stop}")[0] == expected


def test_only_sliding_goes_past_the_end_of_the_context(main, generate, last):
    _, said = generate("--tokens=60", "--slide")
    assert said.strip().splitlines()[-1].startswith("60 tokens, ")
    status, out, err = main("generate.py", f"--checkpoint={last}", f"--prompt={PROMPT}", "--tokens=60")
    assert (status, out) == (1, "")
    assert f"at most {32 - len(PROMPT)}" in error_line(err)


def test_a_network_that_ends_a_text_ends_it(main, must_work, tmp_path):
    """The end-of-text token is always the likeliest here; it is not printed."""
    (tmp_path / "ranks").write_bytes(ranks())
    encoding = load_tokenizer(str(tmp_path / "ranks"))
    gpt = GPT(GPTConfig(1, 2, 16, 32, encoding.n_vocab))
    with torch.no_grad():
        gpt.norm.bias += 3
        gpt.token_embedding.weight[encoding.eot_token] += 3
    save_plain(gpt, tmp_path / "network", encoding)
    out, _ = must_work("generate.py", "--checkpoint=network", f"--prompt={PROMPT}", "--temperature=0")
    assert out == f"{PROMPT}\n"
    # In a prompt its name is ordinary text: as many tokens as it has bytes.
    out, _ = must_work("generate.py", "--checkpoint=network", "--prompt=<|endoftext|>", "--temperature=0")
    assert out == "<|endoftext|>\n"
    status, _, err = main("generate.py", "--checkpoint=network", "--prompt=" + "<|endoftext|>" * 3)
    assert status == 1
    assert "39 tokens" in error_line(err)


def test_other_special_tokens_are_printed_like_text_and_are_ordinary_text_in_a_prompt(main, must_work, tmp_path):
    """<|pad|> is always the likeliest token here."""
    tokenizers = pytest.importorskip("tokenizers")
    learnt = tokenizers.ByteLevelBPETokenizer()
    learnt.train_from_iterator(["the cat sat on the mat " * 50], 300, special_tokens=["<|endoftext|>", "<|pad|>"])
    gpt = GPT(GPTConfig(1, 2, 16, 32, 320))
    with torch.no_grad():
        gpt.norm.bias += 3
        gpt.token_embedding.weight[learnt.token_to_id("<|pad|>")] += 3
    save_huggingface(gpt, tmp_path / "network")
    learnt.save(str(tmp_path / "network/tokenizer.json"))
    args = ["--checkpoint=network", "--temperature=0"]
    out, _ = must_work("generate.py", *args, "--prompt=the cat", "--tokens=3")
    assert out == "the cat" + 3 * "<|pad|>" + "\n"
    status, _, err = main("generate.py", *args, "--prompt=" + 6 * "<|pad|>")
    assert status == 1
    assert "tokens long" in error_line(err)

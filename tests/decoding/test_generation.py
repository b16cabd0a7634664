"""Decoding with the cache equals decoding without it; the edge cases of sampling, prompts and stop strings."""

import base64
import dataclasses
from itertools import islice

import pytest
import torch

from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.decoding.generation import generate, last_logits, penalised, sample
from gpt_lightning.decoding.options import Extent, Sampling
from gpt_lightning.decoding.text_generation import TextStream, generate_text, generate_texts
from gpt_lightning.errors import UserError
from gpt_lightning.kv_cache import KVCache, StaticCache
from gpt_lightning.model import GPT, GPTConfig
from tests.networks import VARIANTS

GREEDY = Sampling(temperature=0)
AS_TRAINED = Sampling(temperature=1)


def first(n: int, tokens) -> torch.Tensor:
    """The first n steps of `generate`, (B, n)."""
    return torch.stack(list(islice(tokens, n)), dim=1)


def draw(logits, sampling):
    return sample(logits, sampling, torch.Generator().manual_seed(0))


@pytest.fixture(params=VARIANTS)
def gpt(request) -> GPT:
    torch.manual_seed(0)
    config = GPTConfig(n_layer=3, n_head=4, d_model=32, context_length=32, vocab_size=256, **VARIANTS[request.param])
    model = GPT(config).eval().double()  # so that rounding hides nothing
    with torch.no_grad():  # sharp enough that wrong positions or masks change the logits visibly
        for parameter in model.parameters():
            parameter.mul_(5)
    return model


@pytest.mark.parametrize("pieces", [[1] * 32, [7, *[1] * 25], [7, 9, *[1] * 16], [32], [31, 1]])
def test_logits_with_the_cache_equal_those_without(gpt, pieces):
    tokens = torch.randint(256, (2, 32))
    cache = KVCache(gpt, batch_size=2)
    with torch.no_grad():
        cached = torch.cat([gpt(piece, cache) for piece in tokens.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(cached, gpt(tokens), atol=1e-10, rtol=1e-10)
    assert cache.length == 32


def test_past_the_context_is_a_clear_error(gpt):
    cache = KVCache(gpt, batch_size=1)
    gpt(torch.zeros(1, 32, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="33 tokens do not fit into a context of 32"):
        gpt(torch.zeros(1, 1, dtype=torch.long), cache)


def test_greedy_generation_equals_a_loop_without_a_cache(gpt):
    prompt = torch.randint(256, (2, 5))
    tokens = prompt
    with torch.no_grad():
        for _ in range(20):
            tokens = torch.cat([tokens, gpt(tokens)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(first(20, generate(gpt, prompt, GREEDY)), tokens[:, 5:])


@pytest.mark.parametrize("length", [1, 5, 31])
def test_logits_with_shapes_that_never_change_equal_those_without_a_cache(gpt, length):
    tokens = torch.randint(256, (2, 32))
    cache = KVCache(gpt, batch_size=2)
    with torch.no_grad():
        gpt(tokens[:, :length], cache)
        static = StaticCache(cache)
        for position in range(length, 32):
            logits = gpt(tokens[:, position : position + 1], static)
            static.position_1 += 1
            torch.testing.assert_close(logits[:, 0], gpt(tokens)[:, position], atol=1e-10, rtol=1e-10)


def test_a_decoding_step_is_captured_once_whatever_its_position(gpt):
    """How torch.compile captures the step can be tested everywhere, unlike the code that it then writes for a GPU."""
    captured = []

    def count(graph, inputs):
        captured.append(graph)
        return graph

    cache = KVCache(gpt, batch_size=2)
    with torch.no_grad():
        gpt(torch.randint(256, (2, 3)), cache)
        static = StaticCache(cache)
        step = torch.compile(last_logits, fullgraph=True, dynamic=False, backend=count)
        for token in torch.randint(256, (6, 2, 1)):
            step(gpt, token, static)
            static.position_1 += 1
    assert len(captured) == 1


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([0.6, 0.3, 0.1]).log().expand(20_000, 3)
    drawn = draw(logits, AS_TRAINED).bincount() / 20_000
    torch.testing.assert_close(drawn, torch.tensor([0.6, 0.3, 0.1]), atol=0.02, rtol=0)
    cooled = draw(logits, Sampling(temperature=0.5)).bincount() / 20_000
    torch.testing.assert_close(cooled, torch.tensor([0.36, 0.09, 0.01]) / 0.46, atol=0.02, rtol=0)
    assert set(draw(logits, Sampling(top_k=2)).tolist()) == {0, 1}


@pytest.mark.parametrize("temperature", [1e-30, 1e-300])
def test_a_tiny_temperature_gives_the_likeliest(temperature):
    logits = torch.tensor([[1.0, 3.0, 2.0], [-5.0, -7.0, -6.0]])
    assert draw(logits, Sampling(temperature)).tolist() == [1, 0]


def test_options_are_frozen_and_each_that_is_out_of_range_is_named():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GREEDY.temperature = 1
    with pytest.raises(UserError, match=r"^sampling\.temperature: -1 is out of .*sampling\.top_k: 0 is out of range"):
        Sampling(temperature=-1, top_k=0)
    with pytest.raises(UserError, match=r"^extent\.samples: 1025 is out of range: it must be from 1 to 1024\.$"):
        Extent(samples=1025)


def test_an_empty_prompt_of_tokens_is_a_clear_error(gpt):
    with pytest.raises(ValueError, match="the prompt is empty"):
        next(generate(gpt, torch.zeros(1, 0, dtype=torch.long), GREEDY))


def test_the_same_seed_gives_the_same_text(gpt):
    encoding = load_tokenizer("bytes")
    one, again, other = (list(generate_text(gpt, encoding, "abc", Sampling(seed=seed))) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_characters_of_several_bytes_are_never_split(tiny_config):
    """With a network that can only say the three bytes of "€", one after the other."""
    gpt = GPT(tiny_config)
    euro = "€".encode()
    follows = {euro[0]: euro[1], euro[1]: euro[2], euro[2]: euro[0]}

    def hidden_states(tokens, cache):
        logits = torch.zeros(*tokens.shape, 256)
        for position, token in enumerate(tokens[0].tolist()):
            logits[0, position, follows[token]] = 100.0
        cache.advance(tokens.size(1))
        return logits

    gpt.hidden_states, gpt.head.forward = hidden_states, lambda logits: logits
    pieces = list(generate_text(gpt, load_tokenizer("bytes"), "€", AS_TRAINED, max_new_tokens=7))
    assert "".join(pieces) == "€€\ufffd"  # the last, unfinished one shows as a replacement character
    assert pieces[:6] == ["", "", "€", "", "", "€"]


@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [("", 1, "empty"), ("x" * 32, None, "32 tokens long"), ("x" * 30, 3, "at most 2")],
)
def test_prompts_that_cannot_work_say_why(gpt, prompt, new, message):
    with pytest.raises(UserError, match=message):
        list(generate_text(gpt, load_tokenizer("bytes"), prompt, AS_TRAINED, new))


# ---- filters of sampling, against transformers


def allowed(logits, **options):
    """The tokens that `sample` draws in very many trials."""
    return set(draw(logits.expand(20_000, -1), Sampling(**options)).tolist())


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.9},
        {"top_p": 0.5},
        {"top_p": 1e-9},
        {"top_p": 1.0},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"top_k": 3},
        {"top_k": 6, "top_p": 0.8},
        {"top_k": 7, "top_p": 0.95, "min_p": 0.2},
    ],
)
def test_sampling_is_among_the_tokens_that_transformers_allows(options, temperature):
    transformers = pytest.importorskip("transformers")
    warpers = {
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    logits = torch.tensor([[2.0, -1.0, 1.5, 0.3, -0.5, 2.2, 0.9, -2.0, 1.1, 0.0]])
    theirs = logits / temperature
    for name, value in options.items():
        theirs = warpers[name](value)(None, theirs)
    assert allowed(logits, temperature=temperature, **options) == set(theirs[0].isfinite().nonzero()[:, 0].tolist())


def test_the_repetition_penalty_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    logits, text = torch.randn(3, 20), torch.randint(20, (3, 8))
    theirs = transformers.RepetitionPenaltyLogitsProcessor(1.7)(text, logits.clone())
    torch.testing.assert_close(penalised(logits, text, 1.7), theirs)
    assert penalised(logits, text, 1.0) is logits


def test_several_samples_of_one_prompt_are_those_of_as_many_prompts(gpt):
    prompt = torch.randint(256, (1, 5))
    together = first(20, generate(gpt, prompt, AS_TRAINED, samples=3))
    assert torch.equal(together, first(20, generate(gpt, prompt.repeat(3, 1), AS_TRAINED)))
    assert len({tuple(row.tolist()) for row in together}) == 3


@pytest.mark.parametrize("length", [1, 31, 32, 40])
def test_past_the_context_it_goes_on_from_its_second_half(gpt, length):
    """Each token is the likeliest after what the window holds then, whatever was cached."""
    prompt = torch.randint(256, (1, length))
    new = first(60, generate(gpt, prompt, GREEDY))[0].tolist()
    text, window = prompt[0].tolist(), min(length, 32)
    for token in new:
        with torch.no_grad():
            assert token == int(gpt(torch.tensor([text[-window:]]))[0, -1].argmax())
        text.append(token)
        window = window + 1 if window < 32 else 16


# ---- text


def streamed(encoding, data, **options):
    stream = TextStream(encoding, **options)
    pieces = [stream.feed(token) for token in data]
    return [*pieces, stream.close()], stream


def test_a_stop_string_ends_the_text_wherever_tokens_break_it():
    encoding = load_tokenizer("bytes")
    pieces, stream = streamed(encoding, b"one, two. three", stop=["two."])
    assert "".join(pieces) == "one, "
    assert pieces[:5] == list("one, ")  # nothing is held back that cannot become a stop string
    assert stream.ended


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["ab", "b"], "a"),  # the first in the text, of those that overlap
        (["aac"], "aab aaxyz"),  # what was held back comes out when it turns out not to be one
        (["zz", "z"], "aab aaxy"),
        (["zab"], "aab aaxyz"),  # and at the end
        (["€"], "aab aaxyz"),
    ],
)
def test_what_is_not_a_stop_string_is_not_lost(stop, expected):
    pieces, _ = streamed(load_tokenizer("bytes"), b"aab aaxyz", stop=stop)
    assert "".join(pieces) == expected


def test_the_end_of_text_token_ends_the_text(tmp_path):
    ranks = tmp_path / "ranks"
    ranks.write_text("".join(f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256)))
    encoding = load_tokenizer(str(ranks))
    pieces, stream = streamed(encoding, [97, 98, 256, 99])
    assert "".join(pieces) == "ab"
    assert stream.ended


def test_each_text_of_one_prompt_ends_at_its_own_place(gpt):
    encoding = load_tokenizer("bytes")
    uncut = list(generate_texts(gpt, encoding, "ab", Sampling(1, seed=3), Extent(samples=4)))
    texts = ["".join(pieces) for pieces in zip(*uncut, strict=True)]
    assert len(set(texts)) == 4
    stop = texts[0][5]
    cut = list(generate_texts(gpt, encoding, "ab", Sampling(1, seed=3), Extent(samples=4, stop=[stop])))
    assert ["".join(pieces) for pieces in zip(*cut, strict=True)] == [text.split(stop)[0] for text in texts]

"""Decoding with the cache gives what decoding without it gives; sampling and text behave at their edges."""

import pytest
import torch

from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.errors import UserError
from gpt_lightning.generation import generate, last_logits, sample
from gpt_lightning.kv_cache import KVCache, StaticCache
from gpt_lightning.model import GPT, GPTConfig
from gpt_lightning.text import generate_text
from tests.networks import VARIANTS


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
    generated = torch.stack(list(generate(gpt, prompt, 20, temperature=0)), dim=1)
    assert torch.equal(generated, tokens[:, 5:])


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
    """By the part of torch.compile that runs everywhere; the code that it would write for a GPU is not tested."""
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
    drawn = sample(logits, generator=torch.Generator().manual_seed(0)).bincount() / 20_000
    torch.testing.assert_close(drawn, torch.tensor([0.6, 0.3, 0.1]), atol=0.02, rtol=0)
    cooled = sample(logits, temperature=0.5, generator=torch.Generator().manual_seed(0)).bincount() / 20_000
    torch.testing.assert_close(cooled, torch.tensor([0.36, 0.09, 0.01]) / 0.46, atol=0.02, rtol=0)
    assert set(sample(logits, top_k=2, generator=torch.Generator().manual_seed(0)).tolist()) == {0, 1}


@pytest.mark.parametrize("temperature", [1e-30, 1e-300])
def test_a_tiny_temperature_gives_the_likeliest(temperature):
    logits = torch.tensor([[1.0, 3.0, 2.0], [-5.0, -7.0, -6.0]])
    assert sample(logits, temperature).tolist() == [1, 0]


def test_the_same_seed_gives_the_same_text(gpt):
    encoding = load_tokenizer("bytes")
    first, again, other = (list(generate_text(gpt, encoding, "abc", seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_characters_of_several_bytes_come_out_whole(tiny_config):
    """A network that can only say the three bytes of "€", one after the other."""
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
    pieces = list(generate_text(gpt, load_tokenizer("bytes"), "€", max_new_tokens=7))
    assert "".join(pieces) == "€€\ufffd"  # the last, unfinished one shows as a replacement character
    assert pieces[:6] == ["", "", "€", "", "", "€"]


@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [("", 1, "empty"), ("x" * 32, None, "32 tokens long"), ("x" * 30, 3, "at most 2")],
)
def test_prompts_that_cannot_work_say_why(gpt, prompt, new, message):
    with pytest.raises(UserError, match=message):
        list(generate_text(gpt, load_tokenizer("bytes"), prompt, new))

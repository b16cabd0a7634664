"""The depth scan: what it measures in a network, what it refuses, and that it leaves the network as it was."""

import copy
import math
from functools import partial

import pytest
import torch

from gpt_lightning.errors import UserError
from gpt_lightning.interpret import scan
from gpt_lightning.interpret.judge.alarms import layer_alarms
from gpt_lightning.interpret.measure import hooks
from gpt_lightning.interpret.metrics import HEAD_METRICS, LAYER_METRICS
from gpt_lightning.interpret.scan import attention_maps, depth_scan
from gpt_lightning.model import GPT, GPTConfig
from tests.gpt2_oracle import copy_from_huggingface, random_huggingface_gpt2
from tests.interpret.conftest import Largest, left_as_it_was, random_tokens, sharpened_gpt, with_checkpointed_blocks
from tests.networks import VARIANTS


def assert_same_metrics(result, expected, **tolerance):
    for name in HEAD_METRICS:
        torch.testing.assert_close(result.heads[name], expected.heads[name], equal_nan=True, msg=name, **tolerance)
    for name in LAYER_METRICS:
        torch.testing.assert_close(result.layers[name], expected.layers[name], equal_nan=True, msg=name, **tolerance)


def test_attention_equals_that_of_transformers():
    theirs = random_huggingface_gpt2(n_layer=3, n_head=4, d_model=32, context_length=72, vocab_size=50)
    ours = copy_from_huggingface(theirs)
    tokens = random_tokens(3, 72)
    with torch.no_grad():
        attentions = torch.stack(theirs(tokens, output_attentions=True).attentions).double()  # L, B, H, T, T
    entropy = -torch.xlogy(attentions, attentions).sum(-1)
    columns = attentions.sum(-2) / (72 - torch.arange(72))
    result = depth_scan(ours, tokens)
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=0)
    assert result.heads["max_logit"].min() > 2  # far from uniform, or this would prove little
    assert result.heads["normalized_entropy_p10"].min() < 0.6
    close(result.heads["entropy"].double(), entropy[..., 1:].mean((1, 3)))
    close(result.heads["first_position_mass"].double(), columns[..., 0].mean(1))
    close(result.heads["stripe"].double(), columns[..., 1 : 72 - 15].amax(-1).mean(1))
    close(result.heads["previous_token"].double(), attentions.diagonal(-1, -2, -1).mean((1, 3)))
    for layer, pattern in enumerate(attention_maps(ours, tokens[1])):
        close(pattern.double(), attentions[layer, 1])
        close(pattern.double().sum(-2), attentions[layer, 1].sum(-2))


def test_residuals_equal_those_of_transformers():
    theirs = random_huggingface_gpt2(n_layer=3, n_head=4, d_model=32, context_length=24, vocab_size=50)
    tokens = random_tokens(3, 24)
    with torch.no_grad():
        states = theirs(tokens, output_hidden_states=True).hidden_states  # the last is after the final norm
    layer_metrics = depth_scan(copy_from_huggingface(theirs), tokens).layers
    for layer in (0, 1):
        before, after = states[layer], states[layer + 1]
        assert layer_metrics["residual_norm"][layer].item() == pytest.approx(after.norm(dim=-1).mean().item(), rel=1e-5)
        cosine = torch.cosine_similarity(before, after, dim=-1).mean().item()
        assert layer_metrics["block_influence"][layer].item() == pytest.approx(1 - cosine, abs=1e-5)


def test_heads_whose_attention_is_built_by_hand():
    """Positions are one-hot and tokens zero; head 0 maps position t to t − 1, head 1 has no weights at all."""
    T = 64
    gpt = GPT(GPTConfig(n_layer=1, n_head=2, d_model=2 * T, context_length=T, vocab_size=50))
    shift = torch.zeros(T, T)
    shift[torch.arange(T - 1), torch.arange(1, T)] = 1  # shift @ e_t = e_(t-1)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.zero_()
        gpt.blocks[0].norm1.weight.fill_(1)
        gpt.position_embedding.weight[:, :T] = torch.eye(T)
        qkv = gpt.blocks[0].attention.qkv.weight.view(3, 2, T, 2 * T)
        qkv[0, 0, :, :T] = 100 * shift
        qkv[1, 0, :, :T] = torch.eye(T)
        qkv[2, 0, :, :T] = torch.eye(T)
        gpt.blocks[0].attention.output.weight[:T, :T] = torch.eye(T)
    result = depth_scan(gpt, torch.zeros(2, T, dtype=torch.long), step=1)
    assert result.heads["previous_token"][0, 0].item() == pytest.approx(1, abs=1e-4)
    assert result.heads["first_position_mass"][0, 0].item() == pytest.approx(2 / T, abs=1e-4)
    assert result.heads["normalized_entropy"][0, 1].item() == pytest.approx(1, abs=1e-5)
    assert result.heads["output_norm"][0, 1].item() == 0
    assert [verdict.kind for verdict in result.verdicts[0]] == ["previous-token", "dead?"]


def test_the_heads_outputs_sum_to_what_attention_adds():
    """With a single head, its output norm is that of the whole sublayer, which is there to be measured."""
    gpt = sharpened_gpt(n_layer=1, n_head=1, bias=False).eval()
    tokens = random_tokens(2, 30)
    block = gpt.blocks[0]
    with torch.no_grad():
        x = gpt.token_embedding(tokens) + gpt.position_embedding.weight[:30]
        added = block.attention(block.norm1(x)).norm(dim=-1).mean()
        residual = block(x).norm(dim=-1).mean()
    head_metrics = depth_scan(gpt, tokens).heads
    assert head_metrics["output_norm"].item() == pytest.approx(added.item(), rel=1e-5)
    assert head_metrics["output_norm_relative_to_residual"].item() == pytest.approx((added / residual).item(), rel=1e-5)
    assert head_metrics["output_norm_relative_to_layer"].item() == pytest.approx(1)


def test_sequences_are_averaged_and_the_strongest_names_the_stripe():
    gpt, tokens = sharpened_gpt(), random_tokens(4, 70)
    together = depth_scan(gpt, tokens)
    alone = [depth_scan(gpt, sequence[None]).heads for sequence in tokens]
    stacked = {name: torch.stack([heads[name] for heads in alone]) for name in HEAD_METRICS}
    strongest = stacked["stripe"].argmax(0, keepdim=True)
    for name in ("entropy", "normalized_entropy", "first_position_mass", "sink_rate", "stripe", "output_norm"):
        torch.testing.assert_close(together.heads[name], stacked[name].mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.heads["max_logit"], stacked["max_logit"].amax(0), atol=1e-4, rtol=1e-5)
    for name in ("stripe_position", "stripe_token"):
        assert together.heads[name].equal(stacked[name].gather(0, strongest)[0]), name
    position = together.heads["stripe_position"].long()
    assert together.heads["stripe_token"].long().equal(tokens[strongest[0], position])
    assert (together.sequences, together.tokens) == (4, 70)


def test_a_stripe_is_named_only_where_most_sequences_agree():
    """Every query looks at token 7: at the same position in the first text, at others in the second."""
    gpt = sharpened_gpt(n_layer=1, n_head=1)
    gpt.position_embedding.weight.data.zero_()
    same = torch.arange(10, 50).repeat(4, 1)
    same[:, 5] = 7
    moved, different = torch.arange(10, 50).repeat(4, 1), torch.arange(10, 50).repeat(4, 1)
    for i, position in enumerate((3, 6, 9, 12)):
        moved[i, position] = different[i, position] = 7
    with torch.no_grad():
        attention = gpt.blocks[0].attention
        attention.qkv.weight[:16].zero_()
        attention.qkv.bias[:8] = 1
        x = gpt.blocks[0].norm1(gpt.token_embedding.weight[7])
        attention.qkv.weight[8:16] += 100 * x / x.norm()
    words = lambda token: f"word{token}"  # noqa: E731
    assert depth_scan(gpt, same).verdicts[0][0].label == "stripe at position 5"
    assert depth_scan(gpt, same, token_text=words).verdicts[0][0].label == "stripe at 'word7'"
    assert depth_scan(gpt, moved, token_text=words).verdicts[0][0].label == "stripe at 'word7'"
    assert depth_scan(gpt, moved).verdicts[0][0].label == "stripe"


@pytest.mark.parametrize(
    ("where", "layer"), [("blocks.1.mlp.down.weight", 1), ("norm.weight", 2), ("blocks.2.mlp.up.bias", 2)]
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_found_wherever_it_is(where, layer, value):
    gpt = sharpened_gpt(n_layer=3)
    with torch.no_grad():
        gpt.get_parameter(where).view(-1)[0] = value
    result = depth_scan(gpt, random_tokens(2, 70), step=5)
    assert result.health == "sick"
    assert (result.alarms[0].label, result.alarms[0].layer) == ("broken", layer)


def test_a_layer_of_sinks_without_values_is_no_alarm():
    """All heads rest on the first token, whose value is nothing: they add nothing, by design."""
    gpt = sharpened_gpt(n_layer=2)
    result = depth_scan(gpt, random_tokens(2, 70), step=5)
    result.heads["first_position_mass"][1] = 0.97
    result.heads["output_norm_relative_to_residual"][1] = 1e-5
    history = [result.record()] * 2
    for record in history:
        record["layers"][1]["stripe"] = 0.01
    assert [alarm.label for alarm in layer_alarms(history) if alarm.layer == 1] in ([], ["lazy layer?"])


def test_relative_output_norms_average_to_one_in_a_layer():
    head_metrics = depth_scan(sharpened_gpt(), random_tokens(2, 30)).heads
    torch.testing.assert_close(head_metrics["output_norm_relative_to_layer"].mean(1), torch.ones(2))


def test_a_scan_never_holds_a_whole_attention_matrix():
    B, H, T, block = 2, 4, 512, 32
    gpt = sharpened_gpt(n_head=H, context_length=T)
    with Largest() as largest:
        depth_scan(gpt, random_tokens(B, T), block=block)
    # Of the blocks, and of the MLP, whichever is larger; one matrix of all heads would be 16 times as much.
    assert largest.numel <= max(B * H * block * T, B * T * 4 * gpt.config.d_model) < B * H * T * T / 8


def test_long_sequences_go_through_in_parts(monkeypatch):
    gpt, tokens = sharpened_gpt(), random_tokens(5, 70)
    expected = depth_scan(gpt, tokens)
    monkeypatch.setattr(hooks, "MOST_NUMBERS", 8 * 2 * 70 * 70)  # two sequences of two heads
    passes = []
    with gpt.token_embedding.register_forward_hook(lambda *_: passes.append(1)):
        assert_same_metrics(depth_scan(gpt, tokens), expected, atol=1e-5, rtol=1e-5)
    assert len(passes) == 3 + 1  # and one for the repeated tokens


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("T", [2, 8, 9, 16, 17, 63, 64])
def test_every_length_and_kind_of_network(variant, T):
    result = depth_scan(sharpened_gpt(**VARIANTS[variant]), random_tokens(2, T))
    missing = {name for name, values in result.heads.items() if values.isnan().any()}
    expected = set()
    if T < 64:
        expected |= {"first_position_mass_64", "sink_rate"}
    if T < 17:
        expected |= {"stripe", "stripe_position", "stripe_token", "stripe_same_position", "stripe_same_token"}
    if T < 9:
        expected |= {"local_mass", "local_mass_baseline"}
    if T == 2:  # too few different tokens to repeat
        expected |= {"induction", "duplicate_token"}
    assert missing == expected
    assert {name for name, x in result.layers.items() if x.isnan().any()} == ({"effective_rank"} if T == 2 else set())
    assert all(values.shape == (2, 2) for values in result.heads.values())
    assert list(result.heads) == list(HEAD_METRICS)
    assert list(result.layers) == list(LAYER_METRICS)


def test_the_block_of_rows_changes_no_number():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 70)
    assert_same_metrics(depth_scan(gpt, tokens, block=9), depth_scan(gpt, tokens), atol=1e-5, rtol=1e-5)


def test_a_scan_in_bfloat16_is_close():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 70)
    exact = depth_scan(gpt, tokens).heads
    head_metrics = depth_scan(copy.deepcopy(gpt).bfloat16(), tokens).heads
    assert all(values.dtype == torch.float32 for values in head_metrics.values())
    torch.testing.assert_close(head_metrics["entropy"], exact["entropy"], atol=0.1, rtol=0.05)
    torch.testing.assert_close(head_metrics["first_position_mass"], exact["first_position_mass"], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (torch.zeros(5, dtype=torch.long), r"2 to 72 tokens .* not tokens of shape \(5,\)"),
        (torch.zeros(1, 1, dtype=torch.long), r"shape \(1, 1\)"),
        (torch.zeros(0, 5, dtype=torch.long), r"shape \(0, 5\)"),
        (torch.zeros(1, 73, dtype=torch.long), r"shape \(1, 73\)"),
        (torch.tensor([[0, 50]]), "token id 50 is outside this model's vocabulary of 50 ids"),
        (torch.tensor([[0, -1]]), "token id -1 is outside"),
    ],
)
def test_wrong_tokens_are_refused(tokens, words):
    with pytest.raises(UserError, match=words):
        depth_scan(sharpened_gpt(), tokens)


def test_attention_maps_refuse_more_than_one_sequence():
    with pytest.raises(UserError, match="shape"):
        attention_maps(sharpened_gpt(), random_tokens(2, 8))


def test_attention_maps_stop_at_the_tokens_to_show():
    gpt, sequence = sharpened_gpt(), random_tokens(1, 70)[0]
    whole, cut = attention_maps(gpt, sequence), attention_maps(gpt, sequence, 12)
    assert [tuple(pattern.shape) for pattern in cut] == [(2, 12, 12)] * 2
    for longer, shorter in zip(whole, cut, strict=True):
        torch.testing.assert_close(shorter, longer[:, :12, :12])


@pytest.mark.parametrize("look", [depth_scan, lambda gpt, tokens: attention_maps(gpt, tokens[0])])
def test_the_network_is_left_as_it_was(look):
    gpt = sharpened_gpt(dropout=0.5).train()
    gpt.blocks[1].eval()  # a mixture, as when part of a network is frozen
    with left_as_it_was(gpt):
        first, second = look(gpt, random_tokens(1, 20)), look(gpt, random_tokens(1, 20))
    if look is depth_scan:  # in evaluation mode: without dropout, twice the same
        assert_same_metrics(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("where", ["in the statistics", "in the network"])
def test_the_network_is_left_as_it_was_when_the_scan_fails(where, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    gpt = sharpened_gpt(dropout=0.5).train()
    gpt.blocks[0].mlp.eval()
    if where == "in the statistics":
        monkeypatch.setattr(scan, "attention_statistics", fail)
    else:
        monkeypatch.setattr(gpt.blocks[1].mlp, "forward", fail)
    with left_as_it_was(gpt), pytest.raises(RuntimeError, match="out of memory"):
        depth_scan(gpt, random_tokens(1, 20))


def test_a_network_with_activation_checkpointing():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 30)
    expected = depth_scan(gpt, tokens)
    with left_as_it_was(with_checkpointed_blocks(gpt)):
        assert_same_metrics(depth_scan(gpt, tokens), expected, atol=0, rtol=0)


def test_a_compiled_network():
    gpt, tokens = sharpened_gpt(), random_tokens(2, 30)
    expected = depth_scan(gpt, tokens)
    compiled = torch.compile(gpt, backend="eager")
    compiled(tokens)
    assert_same_metrics(depth_scan(compiled, tokens), expected, atol=1e-5, rtol=1e-5)
    assert gpt.training


def test_verdicts_know_the_step_and_the_tokens_text():
    """Every query looks at the 5th token: its key is the largest by far, and all queries are the same."""
    gpt = sharpened_gpt(n_layer=1, n_head=1)
    tokens = torch.arange(40)[None].repeat(2, 1)
    with torch.no_grad():
        gpt.blocks[0].attention.qkv.weight[:16].zero_()
        qkv_bias, key_weight = gpt.blocks[0].attention.qkv.bias, gpt.blocks[0].attention.qkv.weight[8:16]
        x = gpt.blocks[0].norm1(gpt.token_embedding(tokens[0]) + gpt.position_embedding.weight[:40])
        qkv_bias[:8] = 1
        key_weight += 100 * x[5] / x[5].norm()
    assert depth_scan(gpt, tokens, step=0).verdicts[0][0].kind == "untrained"
    assert depth_scan(gpt, tokens, step=7).step == 7
    assert depth_scan(gpt, tokens, step=7).verdicts[0][0].label == "stripe at position 5"
    assert depth_scan(gpt, tokens, 7, lambda token: f"word{token}").verdicts[0][0].label == "stripe at 'word5'"


def test_without_a_stripe_no_token_is_named():
    texts = []
    depth_scan(sharpened_gpt(), random_tokens(1, 10), token_text=lambda token: texts.append(token) or "")
    assert texts == []


def test_a_diverged_network_is_broken():
    gpt = sharpened_gpt()
    with torch.no_grad():
        gpt.blocks[1].attention.qkv.weight[0, 0] = math.nan
    result = depth_scan(gpt, random_tokens(2, 30), token_text=str)
    assert all(verdict.kind != "broken" for verdict in result.verdicts[0])
    assert result.verdicts[1][0].kind == "broken"
    assert "layer 1 head 0 is broken" in result.summary

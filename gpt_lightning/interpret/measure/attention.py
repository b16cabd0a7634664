"""Attention statistics of heads: queries, keys and values in, numbers out.

Pure functions in float32, computed by blocks of rows, so that the T × T weights never exist at once. They know nothing
of models, hooks, verdicts or pictures.

Shapes: B batch, H heads, T tokens, D head width, C model width; R rows (queries) of one block, K the keys that those
rows see, W offsets back from a query.
"""

import math
from collections import defaultdict

import torch
from torch import Tensor

from gpt_lightning.errors import UserError

SINK_THRESHOLD = 0.3  # Gu et al. 2025: a head whose first-position mass is above this has a sink
SINK_TOKENS = 64  # under this length even uniform attention puts much mass on position 0 (0.34 at T = 8)
FREQUENT_TYPES = 8  # token types that count as frequent: in English text the space, "e", "t", … or " the", ",", …
LOCAL_WINDOW = 8  # tokens, the query's own included
PERCENTILES = (0.1, 0.5, 0.9)
FAR_BELOW = torch.finfo(torch.float32).min / 2  # a masked logit; unlike −∞ its product with a weight of 0 is 0


@torch.no_grad()
def attention_statistics(
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    output_weight_CC: Tensor | None = None,
    frequent_BT: Tensor | None = None,
    block: int = 128,
) -> dict[str, Tensor]:
    """What each head does on each sequence: metric name → (B, H) float32; NaN where T is too small to define a metric.

    With A = softmax(q·kᵀ/√D) under the causal mask and rows t = 0..T−1:

    - `entropy` (nats): mean over t ≥ 1 of H_t = −Σ_j A[t,j]·ln A[t,j]. Row 0 sees one key, so it says nothing.
    - `normalized_entropy` (share), `_p10`, `_p90`: median and percentiles over t ≥ 1 of H_t / ln(t+1). A mean would
      hide the two modes of an induction head.
    - `entropy_floor` (nats): mean over t ≥ 1 of the least entropy that logits of this size allow, see `entropy_floor`.
    - `first_position_mass` (share): α₀ = mean_t A[t,0] (Gu et al. 2025); `first_position_mass_64`: over the first 64
      rows only, since α₀ falls with T; `sink_rate`: 1 if α₀ > 0.3 else 0, needs T ≥ 64.
    - `value_weighted_first_position_share`: mean_t A[t,0]·‖v_0‖ / Σ_j A[t,j]·‖v_j‖ (Kobayashi et al. 2020).
    - `first_value_norm` (ratio): ‖v_0‖ over the mean ‖v_j‖. If a head attends to nothing else, the share above is 1
      however small the value is; this ratio shows that it is drained.
    - `stripe` (share), `stripe_position` (token index): max and argmax over k ≥ 1 with T−k ≥ max(16, T/8) of
      α_k = Σ_{t≥k} A[t,k] / (T−k). Shorter columns are noise: the identity pattern has α_{T−1} = 1. Needs T ≥ 17.
    - `local_mass` (share): mean over t ≥ 8 of the mass on the last 8 tokens; `local_mass_baseline`: the same for
      uniform attention, 8/(t+1). Needs T ≥ 9.
    - `previous_token` (share): mean over t ≥ 1 of A[t,t−1].
    - `frequent_token_excess` (share): mean over t ≥ 1 of the mass on the most frequent tokens minus their share among
      the visible keys: 0 if the head does not prefer them, however common they are.
    - `max_logit`: max |q·k/√D| over visible keys; its growth precedes entropy collapse (Zhai et al. 2023).
    - `output_norm`: mean_t ‖o_t‖ of o = A·v, after the head's slice of the output projection if that is given.

    Args:
        q_BHTD, k_BHTD, v_BHTD: As the attention kernel gets them: after positions and normalisation.
        output_weight_CC: Weight of the output projection, (C, H·D); with it, `output_norm` is the norm of what the head
            adds to the residual stream.
        frequent_BT: Which positions hold one of the most frequent tokens, (B, T) bool, from `frequent_tokens`; without
            it there is no `frequent_token_excess`.
        block: Rows at a time. Peak memory is a few tensors of B·H·block·T; the results do not depend on it.

    Raises:
        UserError: shapes that differ, fewer than 2 tokens, or a block below 1.
    """
    _check(q_BHTD, k_BHTD, v_BHTD, block)
    # Under autocast these products would silently become bf16, which costs up to 0.04 nats.
    with torch.autocast(q_BHTD.device.type, enabled=False):
        q, k, v = q_BHTD.float(), k_BHTD.float(), v_BHTD.float()
        B, H, T, D = q.shape
        v_norm_BHT = v.norm(dim=-1)
        gram_HDD = None
        if output_weight_CC is not None:  # ‖W·o‖² = oᵀ(WᵀW)o never builds the C-wide vectors
            w_CHD = output_weight_CC.float().view(-1, H, D)
            gram_HDD = torch.einsum("chd,che->hde", w_CHD, w_CHD)

        # One product gives the mix of values and, in its last columns, the sums of weights times these.
        extra = [v_norm_BHT[..., None]]
        if frequent_BT is not None:
            extra.append(frequent_BT[:, None, :, None].float().expand(B, H, T, 1))
        values = torch.cat([v, *extra], dim=-1)

        block = min(block, T)
        scaled_q = q / math.sqrt(D)
        behind_RR = torch.ones(block, block, device=q.device).tril()
        ahead_RR = behind_RR.new_full((block, block), FAR_BELOW).triu(1)
        # Each block of rows overwrites these: fresh memory costs as much as the arithmetic on it.
        logits_space, weights_space = (q.new_empty(B * H * block * T) for _ in range(2))
        columns_BHT = q.new_zeros(B, H, T)
        max_logit_BH = q.new_zeros(B, H)
        rows: dict[str, list[Tensor]] = defaultdict(list)
        for start in range(0, T, block):
            end = min(start + block, T)
            R, numbers = end - start, B * H * (end - start) * end
            logits_BHRK, weights_BHRK = (x[:numbers].view(B, H, R, end) for x in (logits_space, weights_space))
            torch.matmul(scaled_q[:, :, start:end], k[:, :, :end].mT, out=logits_BHRK)
            for visible in (logits_BHRK[..., :start], logits_BHRK[..., start:] * behind_RR[:R, :R]):
                if visible.numel() > 0:  # not abs(), which would copy
                    extremes = visible.amax((-2, -1)), -visible.amin((-2, -1))
                    max_logit_BH = torch.maximum(max_logit_BH, torch.maximum(*extremes))
            logits_BHRK[..., start:] += ahead_RR[:R, :R]
            logits_BHRK -= logits_BHRK.amax(-1, keepdim=True)
            torch.softmax(logits_BHRK, -1, out=weights_BHRK)
            columns_BHT[..., :end] += weights_BHRK.sum(-2)

            # If s are the logits minus their row's maximum, H = ln Z − Σ a·s. Neither term is negative, while in
            # logsumexp − Σ a·logit large numbers cancel. The largest weight is 1/Z.
            below_BHR = logits_BHRK.mul_(weights_BHRK).sum(-1)
            rows["entropy"].append(-weights_BHRK.amax(-1).log() - below_BHR)
            first_BHR = weights_BHRK[..., 0].clone()  # a view would keep all of the block alive
            rows["first"].append(first_BHR)

            t_R = torch.arange(start, end, device=q.device)
            key_RW = t_R[:, None] - torch.arange(LOCAL_WINDOW, device=q.device)
            recent_BHRW = weights_BHRK.gather(-1, key_RW.clamp_min(0).expand(B, H, -1, -1)) * (key_RW >= 0)
            rows["previous"].append(recent_BHRW[..., 1].clone())
            rows["local"].append(recent_BHRW.sum(-1))

            sums = weights_BHRK @ values[:, :, :end]
            # If v_0 is zero, row 0 would be 0/0; its share is 0.
            share_BHR = first_BHR * v_norm_BHT[..., :1] / sums[..., D].clamp_min(torch.finfo(q.dtype).tiny)
            rows["value"].append(share_BHR)
            if frequent_BT is not None:
                rows["frequent"].append(sums[..., D + 1])
            mixed_BHRD = sums[..., :D]
            projected_BHRD = mixed_BHRD if gram_HDD is None else mixed_BHRD @ gram_HDD
            rows["norm"].append((mixed_BHRD * projected_BHRD).sum(-1).clamp_min(0).sqrt())

    row = {name: torch.cat(parts, dim=-1) for name, parts in rows.items()}
    keys_T = torch.arange(1, T + 1, device=q.device)  # how many keys row t sees
    normalized = (row["entropy"][..., 1:] / keys_T[1:].log()).clamp(max=1)  # rounding alone can exceed 1
    p10, p50, p90 = normalized.quantile(normalized.new_tensor(PERCENTILES), dim=-1)
    mass_BHT = columns_BHT / keys_T.flip(0)
    stripe, stripe_position = _stripe(mass_BHT)
    undefined_BH = torch.full_like(max_logit_BH, math.nan)
    excess = {}
    if frequent_BT is not None:
        excess_BHT = row["frequent"] - (frequent_BT.cumsum(-1) / keys_T)[:, None]
        excess["frequent_token_excess"] = excess_BHT[..., 1:].mean(-1)
    return excess | {
        "entropy": row["entropy"][..., 1:].mean(-1),
        "normalized_entropy": p50,
        "normalized_entropy_p10": p10,
        "normalized_entropy_p90": p90,
        "entropy_floor": entropy_floor(max_logit_BH[..., None], keys_T[1:]).mean(-1),
        "first_position_mass": mass_BHT[..., 0],
        "first_position_mass_64": row["first"][..., :SINK_TOKENS].mean(-1) if T >= SINK_TOKENS else undefined_BH,
        "sink_rate": (mass_BHT[..., 0] > SINK_THRESHOLD).float() if T >= SINK_TOKENS else undefined_BH,
        "value_weighted_first_position_share": row["value"].mean(-1),
        "first_value_norm": v_norm_BHT[..., 0] / v_norm_BHT.mean(-1).clamp_min(torch.finfo(q.dtype).tiny),
        "stripe": stripe,
        "stripe_position": stripe_position,
        "local_mass": row["local"][..., LOCAL_WINDOW:].mean(-1),
        "local_mass_baseline": (LOCAL_WINDOW / keys_T[LOCAL_WINDOW:]).mean().expand(B, H),
        "previous_token": row["previous"][..., 1:].mean(-1),
        "max_logit": max_logit_BH,
        "output_norm": row["norm"].mean(-1),
    }


def entropy_floor(max_logit: Tensor, keys: Tensor) -> Tensor:
    """The least entropy, in nats, that attention over `keys` keys can have while every logit is within ±`max_logit`.

    Entropy is least when every logit is at one end of the range δ = 2·max_logit: with k keys at the top it is
    ln Z + δ·(1 − k/Z), Z = k + (keys − k)·e^−δ, which has its minimum at Z = δ·keys·e^−δ / (1 − e^−δ), or at k = 1 if
    that minimum needs less than one key. It falls exponentially with the logits, which is why their growth precedes
    entropy collapse (Zhai et al. 2023, theorem 3.1, gives the same bound for rows of bounded norm).

    `max_logit` ≥ 0 and `keys` ≥ 1 may have any shapes that broadcast.
    """
    n, delta = keys.double(), 2 * max_logit.double().clamp_min(1e-6)  # at 0 the formula is 0/0, its limit ln(keys)
    low = (-delta).exp()
    z = torch.maximum(delta * n * low / (1 - low), 1 + (n - 1) * low)
    top = (z - n * low) / (1 - low)
    return (z.log() + delta * (1 - top / z)).clamp_min(0).float()


def frequent_tokens(tokens_BT: Tensor, types: int = FREQUENT_TYPES) -> Tensor:
    """Which positions hold one of the `types` most frequent token ids of these sequences, (B, T) bool."""
    ids, counts = tokens_BT.unique(return_counts=True)
    # Stable, so that of equally frequent ids the lowest comes first, on every device.
    return torch.isin(tokens_BT, ids[counts.argsort(descending=True, stable=True)[:types]])


@torch.no_grad()
def repeat_statistics(q_BHTD: Tensor, k_BHTD: Tensor, period: int) -> dict[str, Tensor]:
    """What each head does on a text whose last `period` tokens repeat those before them: metric name → (B, H).

    - `induction` (share): mean over the repeat's rows t of A[t, t−period+1], the mass on the token after the earlier
      copy (Olsson et al. 2022).
    - `duplicate_token` (share): the same of A[t, t−period], the mass on the earlier copy itself.

    The tokens of the repeat must be distinct, so that each has one earlier copy.

    Raises:
        UserError: as `attention_statistics`; fewer than 2 · period tokens, or a period below 2.
    """
    _check(q_BHTD, k_BHTD, k_BHTD, block=1)
    T = q_BHTD.size(-2)
    if not 2 <= period <= T // 2:
        raise UserError(f"A repeat of {period} tokens needs a period of at least 2 and twice as many tokens, not {T}.")
    with torch.autocast(q_BHTD.device.type, enabled=False):
        start = T - period
        weights_BHRK = _weights(q_BHTD[:, :, start:], k_BHTD)
    # In row r = t − start, column t − period is start − period + r.
    return {
        "induction": weights_BHRK.diagonal(start - period + 1, -2, -1).mean(-1),
        "duplicate_token": weights_BHRK.diagonal(start - period, -2, -1).mean(-1),
    }


@torch.no_grad()
def attention_pattern(q_BHTD: Tensor, k_BHTD: Tensor) -> Tensor:
    """The weights softmax(q·kᵀ/√D) themselves, (B, H, T, T) float32, for a picture: memory grows with T².

    Raises UserError for shapes that differ or fewer than 2 tokens.
    """
    _check(q_BHTD, k_BHTD, k_BHTD, block=1)
    with torch.autocast(q_BHTD.device.type, enabled=False):
        return _weights(q_BHTD, k_BHTD)


def _weights(q_BHRD: Tensor, k_BHKD: Tensor) -> Tensor:
    """softmax(q·kᵀ/√D) of the last R of K rows under the causal mask, (B, H, R, K) float32, all at once."""
    R, K = q_BHRD.size(-2), k_BHKD.size(-2)
    future_RK = torch.ones(R, K, dtype=torch.bool, device=q_BHRD.device).triu(K - R + 1)
    logits_BHRK = q_BHRD.float() @ k_BHKD.float().mT / math.sqrt(q_BHRD.size(-1))
    return logits_BHRK.masked_fill_(future_RK, -math.inf).softmax(-1)


def _stripe(mass_BHT: Tensor) -> tuple[Tensor, Tensor]:
    """The largest column mass and its position, (B, H) each, among columns k ≥ 1 that are long enough."""
    T = mass_BHT.size(-1)
    last = T - max(16, math.ceil(T / 8))
    if last < 1:
        undefined_BH = torch.full_like(mass_BHT[..., 0], math.nan)
        return undefined_BH, undefined_BH
    stripe_BH, index_BH = mass_BHT[..., 1 : last + 1].max(-1)
    return stripe_BH, index_BH.float() + 1


def _check(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, block: int) -> None:
    if not (q_BHTD.dim() == 4 and q_BHTD.shape == k_BHTD.shape == v_BHTD.shape):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q_BHTD, k_BHTD, v_BHTD))
        raise UserError(f"The shapes of q, k and v must be the same (batch, heads, tokens, head width), not {shapes}.")
    if q_BHTD.size(-2) < 2:
        raise UserError(f"Attention statistics need at least 2 tokens, not {q_BHTD.size(-2)}.")
    if block < 1:
        raise UserError(f"A block must be at least 1 row, not {block}.")

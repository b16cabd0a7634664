"""What one scan keeps of a layer for the alarms of later scans: a few plain numbers, which checkpoints hold.

Shapes: H heads.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gpt_lightning.interpret.judge.alarms import ONE_COLUMN, SHARP_ENTROPY, SHARP_LOGIT, SHARP_STRIPE
from gpt_lightning.interpret.judge.verdicts import (
    COPYING,
    DEAD_RELATIVE_TO_LAYER,
    DEAD_RELATIVE_TO_RESIDUAL,
    SINK,
    Verdict,
)


def layer_record(
    heads: Mapping[str, Tensor],
    layer: Mapping[str, float],
    verdicts: Sequence[Verdict],
    stripe_places: Sequence[str | None],
    finite: bool,
) -> dict:
    """What the rules of `alarms.ALARMS` read.

    Args:
        heads: The head metrics of this layer, (H,) each.
        layer: The layer metrics.
        verdicts, stripe_places: One for each head, as in `DepthScanResult`.
        finite: Whether what the layer passes on is finite.
    """
    column_H = heads["first_position_mass"].fmax(heads["stripe"])
    output_H = heads["output_norm_relative_to_residual"]
    strongest = int(heads["stripe"].nan_to_num(-1).argmax())
    copying_H = heads["induction"].fmax(heads["duplicate_token"]).fmax(heads["previous_token"]) >= COPYING
    sink_H = heads["first_position_mass"] > SINK  # a sink rests by design
    striped_H = (heads["stripe"] > SHARP_STRIPE) & (heads["max_logit"] > SHARP_LOGIT)
    silent_H = output_H < DEAD_RELATIVE_TO_RESIDUAL
    # Quieter than the layer's other heads, and with no good reason to add little.
    dead_H = silent_H & (heads["output_norm_relative_to_layer"] < DEAD_RELATIVE_TO_LAYER) & ~(copying_H | sink_H)
    sharp_H = (heads["normalized_entropy"] < SHARP_ENTROPY) & striped_H & ~(copying_H | sink_H)
    return {
        "heads": len(column_H),
        "broken_heads": sum(verdict.kind == "broken" for verdict in verdicts),
        "finite": finite,
        "silent_heads": int((silent_H & ~sink_H).sum()),
        "dead_heads": dead_H.nonzero().flatten().tolist(),
        "sharp_heads": int(sharp_H.sum()),
        "largest_output": float(output_H.max()),
        "normalized_entropy": float(heads["normalized_entropy"].nanquantile(0.5)),
        "max_logit": float(heads["max_logit"].max()),
        "stripe": float(heads["stripe"][strongest]),
        "stripe_at": stripe_places[strongest],
        "one_column_share": float((column_H > ONE_COLUMN).float().mean()),
        "effective_rank": float(layer["effective_rank"]),
        "block_influence": float(layer["block_influence"]),
    }

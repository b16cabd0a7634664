"""A depth scan as the lines that TensorBoard shows: a Markdown table of verdicts, and each metric's worst value."""

import re
from html import escape

from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.verdicts import KINDS

# Where small is what to worry about: entropy collapse, heads that add nothing, layers that change nothing.
WORST_IS_LOWEST = {
    "entropy",
    "normalized_entropy",
    "normalized_entropy_p10",
    "normalized_entropy_p90",
    "output_norm",
    "output_norm_relative_to_layer",
    "output_norm_relative_to_residual",
    "block_influence",
    "block_influence_centred",
    "effective_rank",
}


def worst_of(result: DepthScanResult, metric: str) -> float:
    """The metric's most worrying value over all heads (or layers, of a metric of layers), in the metric's unit."""
    values = result.heads[metric] if metric in result.heads else result.layers[metric]
    finite = values[values.isfinite()]
    if len(finite) == 0:
        return float("nan")
    return float(finite.min() if metric in WORST_IS_LOWEST else finite.max())


def verdict_table(result: DepthScanResult) -> str:
    """Markdown: the summary, then a row for every head with its verdict, the reason in numbers, and what to try."""
    rows = [
        f"| {layer} | {head} | {_safe(verdict.label)} | {_safe(verdict.reason)} | {_safe(KINDS[verdict.kind].advice)} |"
        for layer, verdicts in enumerate(result.verdicts)
        for head, verdict in enumerate(verdicts)
    ]
    header = "| layer | head | verdict | why | what to look at or try |\n|---|---|---|---|---|"
    return "\n".join([_safe(result.summary), "", header, *rows])


def _safe(text: str) -> str:
    """In Markdown, whatever a token in it holds: its signs want a backslash, those of HTML entities."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(text, quote=False))


def text_table(result: DepthScanResult) -> str:
    """For a terminal: a line per head, in aligned columns."""
    header = ("layer", "head", "verdict", "why")
    rows = [
        (str(layer), str(head), verdict.label, verdict.reason)
        for layer, verdicts in enumerate(result.verdicts)
        for head, verdict in enumerate(verdicts)
    ]
    layer, head, verdict = (max(len(row[column]) for row in [header, *rows]) for column in range(3))
    return "\n".join(f"{r[0]:>{layer}}  {r[1]:>{head}}  {r[2]:<{verdict}}  {r[3]}" for r in [header, *rows])

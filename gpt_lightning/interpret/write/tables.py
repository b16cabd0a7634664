"""A depth scan as text: a Markdown table of verdicts, tables for a terminal, and each metric's worst value."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from gpt_lightning.interpret.judge.alarms import ALARMS
from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict
from gpt_lightning.interpret.metrics import METRICS
from gpt_lightning.interpret.result import DepthScanResult


def worst_of(result: DepthScanResult, metric: str) -> float:
    """The metric's most worrying finite value over all heads, or all layers, in its unit; NaN if there is none."""
    values = result.heads[metric] if metric in result.heads else result.layers[metric]
    finite = values[values.isfinite()]
    if len(finite) == 0:
        return float("nan")
    return float(finite.min() if METRICS[metric].worst == "lowest" else finite.max())


def verdict_table(result: DepthScanResult) -> str:
    """Markdown: the summary, a row per alarm, then a row per head with its verdict, the reason in numbers, and what to
    try."""
    alarms = [
        (alarm.layer, alarm.label, alarm.reason, f"step {alarm.since_step}", ALARMS[alarm.kind].advice)
        for alarm in result.alarms
    ]
    heads = [
        (layer, head, verdict.label, _why(verdict), KINDS[verdict.kind].advice)
        for layer, verdicts in enumerate(result.verdicts)
        for head, verdict in enumerate(verdicts)
    ]
    parts = [_safe(result.summary)]
    if alarms:
        parts.append(_markdown(("layer", "alarm", "why", "since", "what to try"), alarms))
    parts.append(_markdown(("layer", "head", "verdict", "why", "what to look at or try"), heads))
    return "\n\n".join(parts)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([_safe(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _why(verdict: Verdict) -> str:
    return "; ".join(filter(None, (verdict.reason, verdict.evidence)))


def _safe(text: str) -> str:
    """Text escaped for a Markdown cell, since tokens may hold any character."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(text, quote=False))


def text_table(result: DepthScanResult) -> str:
    """For a terminal: a line per head, in aligned columns."""
    rows = [("layer", "head", "verdict", "why")]
    for layer, verdicts in enumerate(result.verdicts):
        rows += [(str(layer), str(head), verdict.label, _why(verdict)) for head, verdict in enumerate(verdicts)]
    layer, head, verdict, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{r[0]:>{layer}}  {r[1]:>{head}}  {r[2]:<{verdict}}  {r[3]}" for r in rows)


def comparison_table(
    scans: tuple[DepthScanResult, DepthScanResult], names: tuple[str, str], losses: tuple[float, float]
) -> str:
    """For a terminal: two scans side by side, a line per layer, with means over heads; `losses` in nats per token."""
    lines = [
        f"{letter}: {name}, loss {loss:.3f}, {scan.health}"
        for letter, name, loss, scan in zip("AB", names, losses, scans, strict=True)
    ]
    compared = {name: row.compared_as for name, row in METRICS.items() if row.compared_as}
    rows = [["layer", *(f"{title} {letter}" for title in compared.values() for letter in "AB")]]
    for layer in range(max(len(scan.verdicts) for scan in scans)):
        rows.append([str(layer), *(layer_cell(scan, metric, layer) for metric in compared for scan in scans)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def layer_cell(scan: DepthScanResult, metric: str, layer: int) -> str:
    """A layer's value of a metric, or the mean over its heads; a dash if the network has no such layer."""
    if layer >= len(scan.verdicts):
        return "–"
    value = scan.heads[metric][layer].mean() if metric in scan.heads else scan.layers[metric][layer]
    return f"{float(value):.3g}"

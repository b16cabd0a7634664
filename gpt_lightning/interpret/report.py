"""The report: one HTML file that opens offline, summary first, then pictures, then tables.

Strings in, a string out; it knows no models and writes no files.
"""

import base64
from html import escape

from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.verdicts import KINDS

# What a reader sees of each head; the rest is in depth_scan.json.
COLUMNS = {
    "normalized_entropy": "entropy, relative to uniform",
    "first_position_mass": "mass on the first token",
    "stripe": "strongest stripe",
    "local_mass": "mass on the last 8 tokens",
    "previous_token": "mass on the previous token",
    "max_logit": "largest logit",
}
LAYER_COLUMNS = {
    "block_influence": "block influence (1 − cosine)",
    "block_influence_centred": "the same, token mean removed",
    "residual_norm": "residual norm",
    "massive_activation_ratio": "largest ÷ median activation",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem; } .facts { color: #5c6773; margin-top: 0; }
.summary { background: #eef3f8; border-left: 5px solid #2f6db5; padding: .8rem 1rem; font-size: 1.1rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; border: 1px solid #dde2e7; } figcaption { color: #5c6773; }
table { border-collapse: collapse; font-size: .85rem; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e7eb; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.kind { color: white; border-radius: 4px; padding: 0 .4rem; white-space: nowrap; }
"""


def report_html(
    result: DepthScanResult, name: str, text_source: str, overview_png: bytes, gallery_pngs: list[bytes]
) -> str:
    """The whole page.

    Args:
        result: What the scan found.
        name: What was scanned, for the title: the checkpoint.
        text_source: Where the scanned text came from, in words.
        overview_png: The main matrices, from `figures.overview`.
        gallery_pngs: One attention gallery per layer.
    """
    step = "" if result.step is None else f" after {result.step:,} optimiser steps"
    galleries = "".join(
        _figure(png, f"Layer {layer}", f"Layer {layer}. Each panel is a head, a row is the token that looks, a column
        one that "
                "it looks at; brighter is more. Every row sums to 1.")
        for layer, png in enumerate(gallery_pngs)
    )  # fmt: skip
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Depth scan of {escape(name)}</title><style>{
        STYLE
    }</style></head><body>
<h1>Depth scan</h1>
<p class="facts">{escape(name)}{step}; {result.sequences} sequences of {result.tokens} tokens from {
        escape(text_source)
    }</p>
<p class="summary">{escape(result.summary)}</p>
<h2>All heads at a glance</h2>
{
        _figure(
            overview_png,
            "Metrics of every head",
            "A row is a layer (0 reads the tokens), a column a head; the letter is the "
            "head's verdict. Shares run from 0 to 1 on the same scale in every report.",
        )
    }
<h2>What the verdicts mean</h2>
{_kinds(result)}
<h2>Where each head looks</h2>
{galleries}
<h2>Every layer</h2>
{_layers(result)}
<h2>Every head</h2>
{_heads(result)}
</body></html>
"""


def _figure(png: bytes, alt: str, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _kinds(result: DepthScanResult) -> str:
    found = {verdict.kind for row in result.verdicts for verdict in row}
    rows = [
        f"<tr><td>{_badge(name, name)}</td><td>{kind.letter}</td><td>{escape(kind.meaning)}</td>"
        f"<td>{escape(kind.advice)}</td></tr>"
        for name, kind in KINDS.items()
        if name in found
    ]
    return (
        f"<table><tr><th>verdict</th><th>letter</th><th>the head …</th><th>what to do</th></tr>{''.join(rows)}</table>"
    )


def _layers(result: DepthScanResult) -> str:
    head = "".join(f"<th>{escape(label)}</th>" for label in LAYER_COLUMNS.values())
    rows = [
        f'<tr><td class="number">{layer}</td>'
        + "".join(_number(result.layers[m][layer]) for m in LAYER_COLUMNS)
        + "</tr>"
        for layer in range(len(result.verdicts))
    ]
    return f"<table><tr><th>layer</th>{head}</tr>{''.join(rows)}</table>"


def _heads(result: DepthScanResult) -> str:
    head = "".join(f"<th>{escape(label)}</th>" for label in COLUMNS.values())
    rows = [
        f'<tr><td class="number">{layer}</td><td class="number">{h}</td><td>{_badge(verdict.kind, verdict.label)}</td>'
        f"<td>{escape(verdict.reason)}</td>" + "".join(_number(result.heads[m][layer, h]) for m in COLUMNS) + "</tr>"
        for layer, verdicts in enumerate(result.verdicts)
        for h, verdict in enumerate(verdicts)
    ]
    return f"<table><tr><th>layer</th><th>head</th><th>verdict</th><th>why</th>{head}</tr>{''.join(rows)}</table>"


def _badge(kind: str, label: str) -> str:
    return f'<span class="kind" style="background:{KINDS[kind].colour}">{escape(label)}</span>'


def _number(value: float) -> str:
    return f'<td class="number">{float(value):.3g}</td>'

"""The report: one HTML file that opens offline, summary first, then pictures, then tables.

Strings in, a string out; it knows no models and writes no files.
"""

import base64
from collections.abc import Iterable
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


PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Depth scan of {name}</title><style>{style}</style></head>
<body>
<h1>Depth scan</h1>
<p class="facts">{name}{step}; {sequences} sequences of {tokens} tokens from {text_source}</p>
<p class="summary">{summary}</p>
<h2>All heads at a glance</h2>
{overview}
<h2>What the verdicts mean</h2>
{kinds}
<h2>Where each head looks</h2>
{galleries}
<h2>Every layer</h2>
{layers}
<h2>Every head</h2>
{heads}
</body>
</html>
"""
OVERVIEW_CAPTION = (
    "A row is a layer (0 reads the tokens), a column a head; the letter is the head's verdict. Shares run from 0 to 1, "
    "on the same scale in every report."
)
GALLERY_CAPTION = (
    "Each panel is a head, a row the token that looks, a column one that it looks at; brighter is more. Every row sums "
    "to 1."
)


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
    galleries = [_figure(png, f"Layer {layer}. {GALLERY_CAPTION}") for layer, png in enumerate(gallery_pngs)]
    return PAGE.format(
        style=STYLE,
        name=escape(name),
        step="" if result.step is None else f" after {result.step:,} optimiser steps",
        sequences=result.sequences,
        tokens=result.tokens,
        text_source=escape(text_source),
        summary=escape(result.summary),
        overview=_figure(overview_png, OVERVIEW_CAPTION),
        kinds=_kinds(result),
        galleries="\n".join(galleries),
        layers=_layers(result),
        heads=_heads(result),
    )


def _figure(png: bytes, caption: str) -> str:
    data, caption = base64.b64encode(png).decode("ascii"), escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """`header` are texts, `rows` hold cells that are markup already."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in header)
    return f"<table><tr>{titles}</tr>" + "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows) + "</table>"


def _kinds(result: DepthScanResult) -> str:
    found = {verdict.kind for row in result.verdicts for verdict in row}
    rows = [
        [_badge(name, name), *map(_text, (kind.letter, kind.meaning, kind.advice))]
        for name, kind in KINDS.items()
        if name in found
    ]
    return _table(["verdict", "letter", "the head …", "what to do"], rows)


def _layers(result: DepthScanResult) -> str:
    rows = [
        [_number(layer), *(_number(result.layers[metric][layer]) for metric in LAYER_COLUMNS)]
        for layer in range(len(result.verdicts))
    ]
    return _table(["layer", *LAYER_COLUMNS.values()], rows)


def _heads(result: DepthScanResult) -> str:
    rows = [
        [
            *(_number(layer), _number(head), _badge(verdict.kind, verdict.label), _text(verdict.reason)),
            *(_number(result.heads[metric][layer, head]) for metric in COLUMNS),
        ]
        for layer, verdicts in enumerate(result.verdicts)
        for head, verdict in enumerate(verdicts)
    ]
    return _table(["layer", "head", "verdict", "why", *COLUMNS.values()], rows)


def _badge(kind: str, label: str) -> str:
    return f'<td><span class="kind" style="background:{KINDS[kind].colour}">{escape(label)}</span></td>'


def _text(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _number(value: float) -> str:
    return f'<td class="number">{float(value):.3g}</td>'

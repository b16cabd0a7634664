"""The report: one HTML page that opens offline, summary first, then pictures, then tables.

Results and pictures in, a string out. Knows nothing of models, writes no files.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from gpt_lightning.interpret.judge.alarms import ALARMS, what_is_wrong
from gpt_lightning.interpret.judge.verdicts import KINDS, change, summarise
from gpt_lightning.interpret.measure.ablation import interval
from gpt_lightning.interpret.metrics import HEAD_METRICS, LAYER_METRICS
from gpt_lightning.interpret.result import DepthScanResult, plain
from gpt_lightning.interpret.study import Probe, Study
from gpt_lightning.interpret.write.tables import layer_cell

# The metrics shown of each head and layer; depth_scan.json has the rest.
COLUMNS, LAYER_COLUMNS = (
    {name: row.heading for name, row in rows.items() if row.in_report} for rows in (HEAD_METRICS, LAYER_METRICS)
)
PROBES = {
    "natural": (
        "the text itself",
        "the entropy of its single tokens: above it, not even their frequencies are learned",
    ),
    "random": ("random tokens of the text", "the floor, ln(number of ids): nothing can predict them better"),
    "repeated": ("random tokens, their repeat", "the floor: a model with induction heads copies the first half"),
}
# Heading and caption of each kind of picture; those of one kind stand under one heading.
KINDS_OF_PICTURE = {
    "overview": (
        "All heads at a glance",
        "A row is a layer (0 reads the tokens), a column a head; the letter is the head's verdict. Shares run from 0 "
        "to 1, on the same scale in every report.",
    ),
    "comparison": ("Beside the other checkpoint", "The same metrics of both, on the same scales."),
    "entropy over time": (
        "How it came about",
        "Median entropy of each layer's heads at each scan of the run, relative to uniform attention. A layer that "
        "goes dark and stays dark has collapsed onto few tokens.",
    ),
    "heads of note": (
        "Heads of note",
        "A row is the token that looks, a column one that it looks at; brighter is more. Every row sums to 1.",
    ),
    "ablation": (
        "What each head is worth",
        "How much the loss rises when a head, or all attention of a layer, is replaced by its mean output. Where the "
        "confidence interval includes 0, nothing is proved.",
    ),
    "logit lens": (
        "How the prediction builds up",
        "What the network would predict if it stopped after each layer: where the loss no longer falls, layers do not "
        "help to predict the next token.",
    ),
    "similarity": (
        "How alike the layers are",
        "Linear CKA of the residual streams: of two neighbours near 1 the later one changes little.",
    ),
    "layer": (
        "Every layer's attention",
        "A row is the token that looks, a column one that it looks at; brighter is more. Every row sums to 1.",
    ),
    "pooled": (
        "The whole length",
        "The same over the whole sequence, several tokens to a cell: on the left the mass on each group of tokens, on "
        "the right the largest single weight, which averaging would hide.",
    ),
}
FOLDED = ("layer", "pooled")  # many pictures, of interest to few


@dataclass(frozen=True)
class Picture:
    """A picture of the report: its file's name, a key of KINDS_OF_PICTURE, and its PNG."""

    file: str
    kind: str
    png: bytes


@dataclass(frozen=True)
class Comparison:
    """Another checkpoint beside the one reported; `same_tokens`: whether both were scanned on the same tokens."""

    name: str
    scan: DepthScanResult
    cross_entropy: float
    same_tokens: bool

    def to_json(self) -> dict:
        """The JSON of the scan, with the loss and whether the tokens were the same."""
        content = {"checkpoint": self.name, "cross_entropy": plain(self.cross_entropy), "same_tokens": self.same_tokens}
        return content | self.scan.to_json()


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 1300px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.2rem; } .facts { color: #5c6773; margin-top: 0; }
.summary { background: #eef3f8; border-left: 5px solid #2f6db5; padding: .8rem 1rem; font-size: 1.1rem; }
.sick { background: #fbecec; border-color: #b3202c; } .suspect { background: #fdf3e3; border-color: #d9822b; }
figure { margin: 1.5rem 0; } img { max-width: 100%; border: 1px solid #dde2e7; }
figcaption, .note { color: #5c6773; } summary { cursor: pointer; }
table { border-collapse: collapse; font-size: .85rem; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e7eb; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.why { min-width: 16em; }
.kind { color: white; border-radius: 4px; padding: 0 .4rem; white-space: nowrap; }
"""
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Depth scan of {name}</title>
<style>{style}</style></head>
<body>
<h1>Depth scan</h1>
<p class="facts">{name}{step}; {sequences} sequences of {tokens} tokens from {text_source}; loss {loss} nats
per token</p>
<p class="summary {health}">{wrong}</p>
{caution}
<p>{heads_in_short}</p>
{alarms}
{pictures}
<h2>What the verdicts mean</h2>
{kinds}
<h2>Three kinds of text</h2>
<p class="note">A sink that stays on random text is about the position, not about what stands there.</p>
{probes}
{comparison}
<h2>Every layer</h2>
{layers}
<h2>Every head</h2>
{heads}
</body>
</html>
"""


def report_html(
    study: Study,
    name: str,
    text_source: str,
    pictures: Sequence[Picture],
    explorer: str = "",
    comparison: Comparison | None = None,
) -> str:
    """The complete page.

    Args:
        study: The results.
        name: Of the checkpoint, for the title.
        text_source: Where the text came from, in words.
        pictures: In the order in which they are shown.
        explorer: Markup from `attention_explorer`, which follows the heads of note.
        comparison: Another checkpoint, to put beside this one.
    """
    scan = study.scan
    return PAGE.format(
        style=STYLE,
        name=escape(name),
        step="" if scan.step is None else f" after {scan.step:,} optimiser steps",
        sequences=scan.sequences,
        tokens=scan.tokens,
        text_source=escape(text_source),
        loss=f"{study.probes[0].cross_entropy:.3f}",
        health=scan.health,
        wrong=escape(what_is_wrong(scan.step, scan.alarms)),
        caution=f'<p class="summary suspect">{escape(study.caution)}</p>' if study.caution else "",
        heads_in_short=escape(summarise(scan.verdicts)),
        alarms=_alarms(scan),
        pictures=_pictures(pictures, explorer),
        kinds=_kinds(scan),
        probes=_probes(study.probes),
        comparison="" if comparison is None else _comparison(study, comparison),
        layers=_layers(study),
        heads=_heads(study),
    )


def _pictures(pictures: Sequence[Picture], explorer: str) -> str:
    """The pictures, those of a kind under one heading, kinds in the order of their first pictures."""
    parts = []
    for kind in dict.fromkeys(picture.kind for picture in pictures):
        heading, caption = KINDS_OF_PICTURE[kind]
        images = "\n".join(_image(picture, heading) for picture in pictures if picture.kind == kind)
        text = f'<p class="note">{escape(caption)}</p>\n{images}'
        if kind in FOLDED:
            text = f"<details><summary>show</summary>{text}</details>"
        parts.append(f"<h2>{escape(heading)}</h2>\n{text}")
        if kind == "heads of note" and explorer:
            parts.append(f"<h2>Who looks at whom</h2>\n{explorer}")
    return "\n".join(parts)


def _image(picture: Picture, heading: str) -> str:
    data, alt = base64.b64encode(picture.png).decode("ascii"), escape(f"{heading}: {picture.file}")
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>'


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; the header is text, the cells are markup."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in header)
    return f"<table><tr>{titles}</tr>" + "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows) + "</table>"


def _alarms(scan: DepthScanResult) -> str:
    if not scan.alarms:
        return ""
    rows = [_cells(alarm.layer, alarm.label, alarm.reason, ALARMS[alarm.kind].advice) for alarm in scan.alarms]
    note = '<p class="note">A question mark: seen in one scan only, or not proved by an ablation; it may pass.</p>'
    return "<h2>What is wrong, and what to try</h2>" + _table(["layer", "alarm", "why", "what to try"], rows) + note


def _kinds(scan: DepthScanResult) -> str:
    occurring = {verdict.kind for row in scan.verdicts for verdict in row}
    rows = [
        [_badge(name, name), *_cells(kind.letter, kind.meaning, kind.advice)]
        for name, kind in KINDS.items()
        if name in occurring
    ]
    return _table(["verdict", "letter", "the head …", "what to do"], rows)


def _probes(probes: Sequence[Probe]) -> str:
    rows = []
    for probe in probes:
        (text, reference), sinks_L = PROBES[probe.name], probe.first_position_mass_L
        rows.append(_cells(text, probe.cross_entropy, probe.reference, reference, sinks_L.mean(), sinks_L.max()))
    sink_columns = ("mass on the first token, mean of all heads", "the same, highest layer")
    return _table(["text", "loss, nats per token", "compare with", "which is", *sink_columns], rows)


def _comparison(study: Study, other: Comparison) -> str:
    """Both checkpoints' losses and what is wrong with them, then each layer's metrics."""
    both = ("this", study.probes[0].cross_entropy, study.scan), (other.name, other.cross_entropy, other.scan)
    rows = [_cells(name, loss, scan.health, what_is_wrong(scan.step, scan.alarms)) for name, loss, scan in both]
    same = "the very same tokens" if other.same_tokens else "text of its own: the losses do not compare token by token"
    layers = []
    for layer in range(max(len(study.scan.verdicts), len(other.scan.verdicts))):
        pairs = [[layer_cell(scan, metric, layer) for *_, scan in both] for metric in (*COLUMNS, *LAYER_COLUMNS)]
        layers.append(_cells(layer, *map(" | ".join, pairs)))
    return (
        "<h2>Compared, layer by layer</h2>"
        f'<p class="note">{escape(other.name)} was scanned on {same}. In each cell this checkpoint is on the left; '
        "metrics of heads are means over the layer.</p>"
        + _table(["checkpoint", "loss, nats per token", "verdict", "what is wrong"], rows)
        + _table(["layer", *COLUMNS.values(), *LAYER_COLUMNS.values()], layers)
    )


def _layers(study: Study) -> str:
    ablation = [] if study.ablation is None else ["loss without its attention: change, nats per token (95 %)"]
    rows = [
        [
            *_cells(layer, study.scan.layer_verdict(layer)),
            *_cells(*(study.scan.layers[metric][layer] for metric in LAYER_COLUMNS)),
            *_cells(study.lens.cross_entropy[layer + 1]),
            *(_change(study.ablation.attention_delta_Ln[layer]) for _ in ablation),
        ]
        for layer in range(len(study.scan.verdicts))
    ]
    return _table(["layer", "verdict", *LAYER_COLUMNS.values(), "loss by the logit lens", *ablation], rows)


def _heads(study: Study) -> str:
    ablation = [] if study.ablation is None else ["loss without it: change, nats per token (95 %)"]
    rows = [
        [
            *_cells(layer, head),
            _badge(verdict.kind, verdict.label),
            f'<td class="why">{escape(verdict.reason)}</td>',
            *(_change(study.ablation.head_delta_LHn[layer, head]) for _ in ablation),
            *_cells(*(study.scan.heads[metric][layer, head] for metric in COLUMNS)),
        ]
        for layer, verdicts in enumerate(study.scan.verdicts)
        for head, verdict in enumerate(verdicts)
    ]
    return _table(["layer", "head", "verdict", "why", *ablation, *COLUMNS.values()], rows)


def _badge(kind: str, label: str) -> str:
    return f'<td><span class="kind" style="background:{KINDS[kind].colour}">{escape(label)}</span></td>'


def _cells(*values: str | float | Tensor) -> list[str]:
    """Cells of text, and of numbers to three digits."""
    return [
        f"<td>{escape(value)}</td>" if isinstance(value, str) else f'<td class="number">{float(value):.3g}</td>'
        for value in values
    ]


def _change(delta_n: Tensor) -> str:
    return f'<td class="number">{escape(change(*interval(delta_n)).replace(" nats per token", ""))}</td>'

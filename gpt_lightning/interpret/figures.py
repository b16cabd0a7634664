"""Pictures of a depth scan: numbers in, matplotlib Figures out, never larger than 1600 × 1200 pixels.

Only the object-oriented Figure, never pyplot: pyplot keeps every figure alive, and a callback draws thousands. Knows
nothing of models, files or TensorBoard.

Shapes: L layers, H heads, T tokens, S scans over time.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from torch import Tensor

from gpt_lightning.interpret.result import HEAD_UNITS, DepthScanResult
from gpt_lightning.interpret.verdicts import KINDS, Verdict

DPI = 100
FONT = "DejaVu Sans"  # comes with matplotlib
WIDTH, HEIGHT = 16.0, 12.0  # inches, the largest figure
COLOURS = colormaps["viridis"].with_extremes(bad="#e9ecef")
LABELLED_TOKENS = 48  # up to here the axes of an attention picture show tokens, every one if there is room
LABEL_SIZES = (6.0, 8.0)  # points, of those tokens
Box = tuple[float, float, float, float]  # left, bottom, width, height in inches
TITLES = {
    "entropy": "Entropy",
    "normalized_entropy": "Entropy, relative to uniform",
    "first_position_mass": "Mass on the first token",
    "value_weighted_first_position_share": "First token, weighted by value",
    "stripe": "Strongest later column (stripe)",
    "local_mass": "Mass on the last 8 tokens",
    "previous_token": "Mass on the previous token",
    "max_logit": "Largest attention logit",
    "output_norm_relative_to_residual": "Output, relative to the residual",
}
OVERVIEW = [name for name in TITLES if name != "entropy"]


def head_matrix(result: DepthScanResult, metric: str) -> Figure:
    """One metric of HEAD_UNITS as a layer × head matrix, layer 0 on top, with the verdict's letter in each cell."""
    L, H = result.heads[metric].shape
    width, height = _clip(2.4 + 0.6 * H, 5.5, WIDTH), _clip(1.9 + 0.5 * L, 3.6, HEIGHT)
    figure = Figure((width, height), dpi=DPI)
    key_height = _add_key(figure, result.verdicts)
    _draw_matrix(figure, (0, key_height, width, height - key_height), result, metric)
    return figure


def overview(result: DepthScanResult) -> Figure:
    """The main metrics side by side, for a first look at a model."""
    L, _ = result.heads["entropy"].shape
    columns, rows = 4, len(OVERVIEW) // 4
    figure = Figure((WIDTH, _clip(1.2 + rows * (1.2 + 0.3 * L), 6.5, HEIGHT)), dpi=DPI)
    step = "" if result.step is None else f"step {result.step}, "
    title = f"Depth scan: {step}{result.sequences} sequences of {result.tokens} tokens"
    figure.suptitle(title, fontsize=14, y=_from_top(figure, 0.08))
    key_height = _add_key(figure, result.verdicts)
    width, height = WIDTH / columns, (figure.get_figheight() - key_height - 0.35) / rows
    for i, metric in enumerate(OVERVIEW):
        box = (i % columns * width, key_height + (rows - 1 - i // columns) * height, width, height)
        _draw_matrix(figure, box, result, metric)
    return figure


def entropy_over_time(steps: Sequence[int], normalized_entropy_SL: Tensor) -> Figure:
    """Layer × step: the median normalised entropy of each layer's heads at each scan, the best picture of a collapse.

    Args:
        steps: Optimiser step of each scan.
        normalized_entropy_SL: (S, L), shares from 0 to 1; a row is `result.heads["normalized_entropy"].mean(1)`.
    """
    S, L = normalized_entropy_SL.shape
    width, height = _clip(3 + 0.3 * S, 6, WIDTH), _clip(1.6 + 0.4 * L, 3.2, HEIGHT)
    figure = Figure((width, height), dpi=DPI)
    axes = _add_axes(figure, (0.65, 0.55, width - 1.75, height - 0.9))
    axes.imshow(_array(normalized_entropy_SL.T), cmap=COLOURS, norm=Normalize(0, 1), aspect="auto")
    shown = _spread(S, int((width - 1.75) / 0.75))  # 0.75 inches: eight digits
    axes.set_xticks(shown, [str(steps[i]) for i in shown])
    axes.set_yticks(_spread(L, 24))
    axes.set(xlabel="step", ylabel="layer")
    axes.set_title("Entropy over time, relative to uniform", fontsize=12)
    _add_scale(figure, (width - 0.95, 0.55, 0.17, height - 0.9), Normalize(0, 1), HEAD_UNITS["normalized_entropy"], 9)
    return figure


def attention_gallery(
    pattern_HTT: Tensor, token_labels: Sequence[str], verdicts: Sequence[Verdict], layer: int
) -> Figure:
    """The attention of every head of one layer on one sequence: rows look at columns, colour on a √ scale.

    Args:
        pattern_HTT: Weights, (H, T, T), from `attention_maps`.
        token_labels: T visible texts of tokens, from `token_label`; shown when T ≤ 48.
        verdicts: H verdicts for the titles.
        layer: For the title.
    """
    H, T, _ = pattern_HTT.shape
    named = T <= LABELLED_TOKENS
    labels = [_drawable(text) for text in token_labels] if named else [str(i) for i in range(T)]
    right, top, gap, head_room = 1.0, 0.3, 0.12, 0.3  # inches; head_room is for a panel's title
    foot = 0.35  # inches; for the name of an axis, besides the room for its labels

    def room(size: float) -> tuple[float, float]:
        """Inches that the labels take on the left and at the bottom; 0.1 and 0.2 are a margin and a line of numbers."""
        widest = max(_text_width(text, size) for text in labels) + 0.1
        return foot + widest, foot + (widest if named else 0.2)

    left, bottom = room(LABEL_SIZES[1])
    columns, rows, side = _grid(H, WIDTH - left - right, HEIGHT - bottom - top, gap, head_room)
    pitch = 72 * side / T  # points from token to token
    size = _clip(0.95 * pitch, *LABEL_SIZES)
    left, bottom = room(size)
    width, height = columns * (side + gap) - gap, rows * (side + head_room)
    figure = Figure((left + width + right, bottom + height + top), dpi=DPI)
    ticks = _spread(T, int(side * 72 / size)) if named else _spread(T, 8)
    # In tokens: 3 points, and half the height of a capital. Labels are placed by their baseline, to stand in line.
    gap_T, half_T = 3 / pitch, 0.36 * size / pitch
    query_style = {"fontsize": size, "ha": "right", "parse_math": False}
    if named:
        key_style, key_shift = query_style | {"rotation": 90, "rotation_mode": "anchor"}, half_T
    else:
        key_style, key_shift = {"fontsize": size, "ha": "center", "va": "top"}, 0
    title_size = _clip(2.6 * side, 7, 11)
    norm = PowerNorm(0.5, 0, 1)
    future_TT = np.triu(np.ones((T, T), dtype=bool), 1)
    for head in range(H):
        row, column = divmod(head, columns)
        panel = (left + column * (side + gap), bottom + (rows - 1 - row) * (side + head_room), side, side)
        axes = _add_axes(figure, panel)
        axes.imshow(COLOURS(norm(np.ma.array(_array(pattern_HTT[head]), mask=future_TT)), bytes=True))
        title = _shorten(f"head {head} · {_known(verdicts[head].label)}", int(72 * side / (0.6 * title_size)))
        axes.set_title(title, fontsize=title_size, pad=4, parse_math=False)
        axes.set(xticks=[], yticks=[])
        # Plain texts cost a fraction of tick labels, which are measured again and again.
        if column == 0:
            for i in ticks:
                axes.text(-0.5 - gap_T, i + half_T, labels[i], **query_style)
        if head + columns >= H:
            for i in ticks:
                axes.text(i + key_shift, T - 0.5 + gap_T, labels[i], **key_style)
    figure.suptitle(f"Layer {layer}: who looks at whom", fontsize=13, y=_from_top(figure, 0.08))
    middle = (left + width / 2) / figure.get_figwidth(), (bottom + height / 2) / figure.get_figheight()
    figure.supxlabel("key: the token looked at", fontsize=10, x=middle[0], y=0.08 / figure.get_figheight())
    figure.supylabel("query: the token that looks", fontsize=10, x=0.08 / figure.get_figwidth(), y=middle[1])
    tall = min(5.0, height - head_room)
    scale = (left + width + 0.2, bottom + (height - head_room - tall) / 2, 0.17, tall)
    _add_scale(figure, scale, norm, "attention weight (√ scale)", 9)
    return figure


def figure_to_png(figure: Figure) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def figure_to_array(figure: Figure) -> np.ndarray:
    """The picture as (3, height, width) uint8, what TensorBoard's `add_image` takes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].transpose(2, 0, 1).copy()


def _draw_matrix(figure: Figure, box: Box, result: DepthScanResult, metric: str) -> None:
    values_LH = _array(result.heads[metric])
    finite = values_LH[np.isfinite(values_LH)]
    if HEAD_UNITS[metric].startswith("share"):
        top = 1.0  # a fixed scale, so that pictures of different steps compare
    elif metric == "entropy":
        top = math.log(result.tokens)
    else:
        top = max(finite.max(initial=0), 1e-9)
    norm = Normalize(0, top)
    left, bottom, width, height = box[0] + 0.5, box[1] + 0.45, box[2] - 1.5, box[3] - 0.8  # leave room for the words
    axes = _add_axes(figure, (left, bottom, width, height))
    colours_LH4 = COLOURS(norm(np.ma.masked_invalid(values_LH)))
    axes.imshow(colours_LH4, aspect="auto", interpolation="nearest")
    L, H = values_LH.shape
    axes.set_xticks(_spread(H, 16))
    axes.set_yticks(_spread(L, 24))
    axes.tick_params(labelsize=8, length=2)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title(TITLES.get(metric, metric.replace("_", " ")), fontsize=11)
    _add_scale(figure, (left + width + 0.12, bottom, 0.14, height), norm, HEAD_UNITS[metric], 8)
    _add_letters(axes, 72 * min(width / H, height / L), colours_LH4, result.verdicts)


def _add_letters(axes: Axes, cell: float, colours_LH4: np.ndarray, verdicts: Sequence[Sequence[Verdict]]) -> None:
    """Write each verdict's letter into its cell, whose shorter side is `cell` points."""
    size = min(12, 0.6 * cell)
    if size < 6:  # points: unreadable
        return
    luminance_LH = colours_LH4[..., :3] @ (0.2126, 0.7152, 0.0722)  # relative luminance, ITU-R BT.709
    paths = {name: _centred_letter(kind.letter, size) for name, kind in KINDS.items()}
    # One collection of outlines: a Text for every cell takes longer than all the rest of the picture.
    letters = PathCollection(
        [paths[verdict.kind] for row in verdicts for verdict in row],
        facecolors=["white" if luminance < 0.45 else "black" for luminance in luminance_LH.flat],
        linewidths=0,
        offsets=[(head, layer) for layer, row in enumerate(verdicts) for head in range(len(row))],
        offset_transform=axes.transData,
        transform=Affine2D().scale(DPI / 72),
    )
    letters.set_snap(False)  # snapped to pixels, the strokes of T, L and F are thin in one cell and fat in the next
    axes.add_collection(letters, autolim=False)


@lru_cache(maxsize=256)
def _centred_letter(letter: str, size: float) -> Path:
    """A letter's outline in points, its capital height and its own width centred on the origin."""
    outline = TextPath((0, 0), letter, size=size, prop=FontProperties(FONT))
    box, capital = outline.get_extents(), TextPath((0, 0), "B", size=size, prop=FontProperties(FONT)).get_extents()
    middle = (box.x0 + box.x1) / 2, (capital.y0 + capital.y1) / 2
    return Path(outline.vertices - middle, outline.codes)


def _add_scale(figure: Figure, box: Box, norm: Normalize, label: str, size: float) -> None:
    axes = _add_axes(figure, box)
    figure.colorbar(ScalarMappable(norm, COLOURS), cax=axes).set_label(label, fontsize=size)
    axes.tick_params(labelsize=size, length=2)


def _add_key(figure: Figure, verdicts: Sequence[Sequence[Verdict]]) -> float:
    """What the letters mean, of the kinds that occur, at the bottom; returns the inches that it takes."""
    found = {verdict.kind for row in verdicts for verdict in row}
    key = "   ".join(f"{kind.letter} {name}".replace(" ", "\u00a0") for name, kind in KINDS.items() if name in found)
    width = int(13 * figure.get_figwidth())  # characters: about 13 to the inch at 9 points
    lines = textwrap.wrap(key, width, drop_whitespace=True)
    figure.supxlabel("\n".join(lines), fontsize=9, y=0.06 / figure.get_figheight())
    return 0.1 + 0.16 * len(lines)


def _add_axes(figure: Figure, box: Box) -> Axes:
    """Axes at a place in inches. The places are known, so nothing needs to be drawn twice to lay it out."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def _from_top(figure: Figure, inches: float) -> float:
    return 1 - inches / figure.get_figheight()


def _grid(panels: int, width: float, height: float, gap: float, head_room: float) -> tuple[int, int, float]:
    """Columns, rows and the side in inches that make square panels largest in width × height inches."""
    best = (0.0, 0, 0)
    for columns in range(1, panels + 1):
        rows = math.ceil(panels / columns)
        side = min((width + gap) / columns - gap, height / rows - head_room, 4.5)
        # Of two grids with equal panels the one with fewer holes, then the wider one: screens are wide.
        best = max(best, (side, -columns * rows, columns))
    side, _, columns = best
    return columns, math.ceil(panels / columns), side


def _spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced indices below `count`, from 0."""
    return list(range(0, count, max(1, math.ceil(count / most))))


def _drawable(text: str) -> str:
    """At most 12 characters, those that the font lacks as boxes instead of warnings."""
    return _shorten(_known(text), 12)


def _known(text: str) -> str:
    font = _font()
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in text)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text_width(text: str, size: float) -> float:
    """Inches that a line takes at `size` points."""
    font = _font()
    font.set_size(size, DPI)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / DPI  # it counts in 64ths of a pixel


def _font() -> FT2Font:
    return get_font(findfont(FONT))


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)

"""Pictures of a depth scan: numbers in, matplotlib Figures out, never larger than 1600 × 1200 pixels.

Only the object-oriented Figure, never pyplot: pyplot keeps every figure alive, and a callback draws thousands. Knows
nothing of models, files or TensorBoard.

Shapes: L layers, H heads, T tokens, S scans over time.
"""

import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.image import AxesImage
from torch import Tensor

from gpt_lightning.interpret.result import HEAD_UNITS, DepthScanResult
from gpt_lightning.interpret.verdicts import KINDS, Verdict

DPI = 100
WIDTH, HEIGHT = 16.0, 12.0  # inches, the largest figure
COLOURS = colormaps["viridis"].with_extremes(bad="#e9ecef")
LABELLED_TOKENS = 48  # up to here the axes of an attention picture show every token
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
    size = _clip(2.4 + 0.6 * H, 5.5, WIDTH), _clip(1.9 + 0.5 * L, 3.6, HEIGHT)
    figure = Figure(size, dpi=DPI, layout="constrained")
    _draw_matrix(figure, figure.add_subplot(), result, metric, size)
    _add_key(figure, result.verdicts)
    return figure


def overview(result: DepthScanResult) -> Figure:
    """The main metrics side by side, for a first look at a model."""
    L, _ = result.heads["entropy"].shape
    columns, rows = 4, len(OVERVIEW) // 4
    height = _clip(1.2 + rows * (1.2 + 0.3 * L), 6.5, HEIGHT)
    figure = Figure((WIDTH, height), dpi=DPI, layout="constrained")
    for axes, metric in zip(figure.subplots(rows, columns).flat, OVERVIEW, strict=True):
        _draw_matrix(figure, axes, result, metric, (WIDTH / columns, (height - 1) / rows))
    step = "" if result.step is None else f"step {result.step}, "
    figure.suptitle(f"Depth scan: {step}{result.sequences} sequences of {result.tokens} tokens", fontsize=14)
    _add_key(figure, result.verdicts)
    return figure


def entropy_over_time(steps: Sequence[int], normalized_entropy_SL: Tensor) -> Figure:
    """Layer × step: the median normalised entropy of each layer's heads at each scan, the best picture of a collapse.

    Args:
        steps: Optimiser step of each scan.
        normalized_entropy_SL: (S, L), shares from 0 to 1; a row is `result.heads["normalized_entropy"].mean(1)`.
    """
    S, L = normalized_entropy_SL.shape
    figure = Figure((_clip(3 + 0.3 * S, 6, WIDTH), _clip(1.6 + 0.4 * L, 3.2, HEIGHT)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(_array(normalized_entropy_SL.T), cmap=COLOURS, norm=Normalize(0, 1), aspect="auto")
    shown = _spread(S, 10)
    axes.set_xticks(shown, [str(steps[i]) for i in shown])
    axes.set_yticks(_spread(L, 24))
    axes.set(xlabel="step", ylabel="layer")
    axes.set_title("Entropy over time, relative to uniform", fontsize=12)
    figure.colorbar(image, ax=axes, label=HEAD_UNITS["normalized_entropy"])
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
    columns, rows, side = _grid(H)
    figure = Figure((columns * side + 1.8, rows * (side + 0.3) + 1.1), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    future_TT = np.triu(np.ones((T, T), dtype=bool), 1)
    pitch = 0.87 * 72 * side / T  # points from token to token; 0.87: what titles and labels leave of a panel
    if T <= LABELLED_TOKENS:
        size = _clip(1.05 * pitch, 6.5, 9)
        labels, ticks = [_drawable(text, 12) for text in token_labels], _spread(T, int(pitch * T / size * 1.05))
    else:
        labels, size, ticks = [str(i) for i in range(T)], 7, _spread(T, 8)
    long = max(map(len, labels)) > 1  # single characters need no turning
    for head, axes in enumerate(grid.flat):
        if head >= H:
            axes.remove()
            continue
        weights_TT = np.ma.array(_array(pattern_HTT[head]), mask=future_TT)
        image = axes.imshow(weights_TT, cmap=COLOURS, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        title = f"head {head} · {_drawable(verdicts[head].label, int(7 * side))}"
        axes.set_title(title, fontsize=_clip(2.6 * side, 7, 11), parse_math=False)
        bottom = head + columns >= H
        axes.set_xticks(ticks, [labels[i] for i in ticks] if bottom else [], fontsize=size, parse_math=False)
        axes.tick_params(axis="x", rotation=90 if long and T <= LABELLED_TOKENS else 0, length=2)
        left = head % columns == 0
        axes.set_yticks(ticks, [labels[i] for i in ticks] if left else [], fontsize=size, parse_math=False)
        axes.tick_params(axis="y", length=2)
    figure.suptitle(f"Layer {layer}: who looks at whom", fontsize=13)
    figure.supxlabel("key: the token looked at", fontsize=10)
    figure.supylabel("query: the token that looks", fontsize=10)
    figure.colorbar(image, ax=grid, label="attention weight (√ scale)", shrink=min(1.0, 5 / (rows * side)), aspect=30)
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


def _draw_matrix(figure: Figure, axes: Axes, result: DepthScanResult, metric: str, size: tuple[float, float]) -> None:
    """One matrix in a panel of `size`: width and height in inches, decorations included."""
    values_LH = _array(result.heads[metric])
    finite = values_LH[np.isfinite(values_LH)]
    if HEAD_UNITS[metric].startswith("share"):
        top = 1.0  # a fixed scale, so that pictures of different steps compare
    elif metric == "entropy":
        top = math.log(result.tokens)
    else:
        top = max(finite.max(initial=0), 1e-9)
    image = axes.imshow(np.ma.masked_invalid(values_LH), cmap=COLOURS, norm=Normalize(0, top), aspect="auto")
    L, H = values_LH.shape
    axes.set_xticks(_spread(H, 16))
    axes.set_yticks(_spread(L, 24))
    axes.tick_params(labelsize=8, length=2)
    axes.set(xlabel="head", ylabel="layer")
    axes.set_title(TITLES.get(metric, metric.replace("_", " ")), fontsize=11)
    figure.colorbar(image, ax=axes).set_label(HEAD_UNITS[metric], fontsize=8)
    width, height = size[0] - 1.3, size[1] - 1.1  # what decorations leave to the cells
    _add_letters(axes, image, result.verdicts, points=min(12, 0.6 * 72 * min(width / H, height / L)))


def _add_letters(axes: Axes, image: AxesImage, verdicts: Sequence[Sequence[Verdict]], points: float) -> None:
    if points < 4:  # unreadable
        return
    colours = image.to_rgba(image.get_array())
    for layer, row in enumerate(verdicts):
        for head, verdict in enumerate(row):
            red, green, blue, _ = colours[layer, head]
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45  # relative luminance, ITU-R BT.709
            ink = "white" if dark else "black"
            letter = KINDS[verdict.kind].letter
            axes.text(head, layer, letter, color=ink, fontsize=points, ha="center", va="center_baseline")


def _add_key(figure: Figure, verdicts: Sequence[Sequence[Verdict]]) -> None:
    """What the letters mean, of the kinds that occur."""
    found = {verdict.kind for row in verdicts for verdict in row}
    key = "   ".join(f"{kind.letter} {name}".replace(" ", "\u00a0") for name, kind in KINDS.items() if name in found)
    width = int(13 * figure.get_figwidth())  # characters: about 13 to the inch at 9 points
    figure.supxlabel("\n".join(textwrap.wrap(key, width, drop_whitespace=True)), fontsize=9)


def _grid(panels: int) -> tuple[int, int, float]:
    """Columns, rows and the side in inches that make square panels largest on one screen."""
    candidates = []
    for columns in range(1, panels + 1):
        rows = math.ceil(panels / columns)
        side = min((WIDTH - 1.8) / columns, (HEIGHT - 1.1) / rows - 0.3, 5.0)
        candidates.append((side, -columns * rows, columns))  # of equal sides the fewest holes, then the widest
    side, _, columns = max(candidates)
    return columns, math.ceil(panels / columns), side


def _spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced indices below `count`, from 0."""
    return list(range(0, count, max(1, math.ceil(count / most))))


def _drawable(text: str, most: int) -> str:
    """At most `most` characters, those that the font lacks as boxes instead of warnings."""
    font = get_font(findfont("DejaVu Sans"))
    text = "".join(c if font.get_char_index(ord(c)) else "□" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)

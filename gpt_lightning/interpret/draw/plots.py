"""Pictures of an analysis: logit lens, ablation, similarity of layers, two scans compared.

Shapes: L layers, L1 = L + 1 depths (the embedding, then after each layer), H heads.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from gpt_lightning.interpret.draw.canvas import (
    DPI,
    HEIGHT,
    WIDTH,
    add_axes,
    add_heading,
    add_scale,
    clip,
    from_top,
    heads_across,
    layers_downwards,
    spread,
    to_array,
)
from gpt_lightning.interpret.draw.matrices import draw_matrix, key_of, metric_norm, write_key
from gpt_lightning.interpret.draw.text_fitting import drawable, fitted, known, text_width
from gpt_lightning.interpret.metrics import HEAD_METRICS
from gpt_lightning.interpret.result import DepthScanResult

BLUE, ORANGE, GREEN = "#2f6db5", "#d9822b", "#1f8a70"
SAME, DIFFERENT = "#c9e2c4", "#f1f3f5"  # cells of the logit lens
GAIN_LOSS = colormaps["RdBu_r"].with_extremes(bad="#e9ecef")
MOST_POSITIONS, MOST_ROWS = 24, 25  # cells of the logit lens that stay readable
COMPARED = [name for name, row in HEAD_METRICS.items() if row.compared_as]
DEPTH = "depth (after the embedding, after each layer)"


def logit_lens_figure(
    cross_entropy_L1: Tensor,
    kl_L1: Tensor,
    agreement_L1: Tensor,
    top_token_labels: Sequence[Sequence[str]],
    sequence_labels: Sequence[str],
) -> Figure:
    """What the network would predict if it stopped at each depth: how well, and which tokens.

    Args:
        cross_entropy_L1: Cross-entropy, nats per token.
        kl_L1: KL divergence of the final prediction from the one at each depth, nats per token.
        agreement_L1: Share of the positions whose best guess is the final one, from 0 to 1.
        top_token_labels: [depth][position], best guesses as visible text for the beginning of one sequence.
        sequence_labels: The tokens read at these positions.
    """
    L1, N = len(top_token_labels), min(len(sequence_labels), MOST_POSITIONS)
    rows = sorted({round(i * (L1 - 1) / (MOST_ROWS - 1)) for i in range(MOST_ROWS)}) if L1 > MOST_ROWS else range(L1)
    size, row_height = 7, clip(9.5 / len(rows), 0.24, 0.4)  # points, inches
    headers = [drawable(text) for text in sequence_labels[:N]]
    header_room = max(text_width(text, size) for text in headers) + 0.12
    left, column = 5.9, clip(9.9 / N, 0.41, 1.0)  # inches; the table starts at `left`
    width = left + max(N * column, 3.4) + 0.2
    height = clip(1.7 + header_room + len(rows) * row_height, 5.2, HEIGHT)
    figure = Figure((width, height), dpi=DPI)
    add_heading(figure, "Logit lens: what each depth would predict", 13)
    _draw_lens_lines(figure, cross_entropy_L1, kl_L1, agreement_L1)

    top = height - 0.9 - header_room
    axes = add_axes(figure, (left, top - len(rows) * row_height, N * column, len(rows) * row_height))
    # Full texts are compared, not the shortened ones: two tokens may begin alike.
    final = top_token_labels[-1]
    same = np.array([[top_token_labels[depth][n] == final[n] for n in range(N)] for depth in rows], dtype=float)
    colours = ListedColormap([DIFFERENT, SAME])
    axes.imshow(same, cmap=colours, norm=Normalize(0, 1), aspect="auto", interpolation="nearest")
    axes.hlines(np.arange(len(rows) - 1) + 0.5, -0.5, N - 0.5, colors="white", linewidths=1)
    axes.vlines(np.arange(N - 1) + 0.5, -0.5, len(rows) - 0.5, colors="white", linewidths=1)
    style = {"fontsize": size, "ha": "center", "parse_math": False}
    for r, depth in enumerate(rows):
        for n, text in enumerate(top_token_labels[depth][:N]):
            axes.text(n, r, fitted(drawable(text), column - 0.05, size), va="center_baseline", **style)
    for n, text in enumerate(headers):
        axes.annotate(text, (n, -0.5), (0, 4), textcoords="offset points", rotation=90, va="bottom", **style)
    axes.set_xticks([])
    axes.set_yticks(range(len(rows)), [_depth_name(depth) for depth in rows], fontsize=8)
    axes.tick_params(length=0)
    axes.set_ylabel("depth", fontsize=9)
    cut = f", first {N} of {len(sequence_labels)} positions" if len(sequence_labels) > N else ""
    heading = fitted(f"Best guess of the next token{cut}", width - left - 0.2, 11)
    figure.text(left / width, from_top(figure, 0.62), heading, fontsize=11, va="bottom")
    figure.text(left / width, from_top(figure, 0.66), "the token read ↓", fontsize=8, va="top", color="#5c6773")
    legend = [Patch(color=SAME, label="the last layer's guess"), Patch(color=DIFFERENT, label="another guess")]
    axes.legend(handles=legend, loc="upper left", bbox_to_anchor=(0, 0), ncols=2, fontsize=8, frameon=False)
    return figure


def _draw_lens_lines(figure: Figure, cross_entropy_L1: Tensor, kl_L1: Tensor, agreement_L1: Tensor) -> None:
    height = figure.get_figheight()
    tall = (min(height, 8.0) - 2.1) / 2  # inches, the height of each panel
    upper = add_axes(figure, (0.7, height - 0.75 - tall, 3.9, tall))
    lower = add_axes(figure, (0.7, height - 1.4 - 2 * tall, 3.9, tall))
    depths = range(len(cross_entropy_L1))
    upper.plot(depths, to_array(cross_entropy_L1), color=BLUE, marker="o", markersize=3, label="cross-entropy")
    upper.plot(depths, to_array(kl_L1), color=ORANGE, marker="s", markersize=3, label="KL from the final prediction")
    upper.set_ylabel("nats per token", fontsize=9)
    upper.set_title("How good the prediction is", fontsize=11)
    upper.legend(fontsize=8)
    lower.plot(depths, to_array(agreement_L1), color=GREEN, marker="o", markersize=3)
    lower.set_ylim(-0.03, 1.03)
    lower.set_ylabel("share of positions (0 to 1)", fontsize=9)
    lower.set_title("Best guess is the final one", fontsize=11)
    lower.set_xlabel(DEPTH, fontsize=9)
    for axes in (upper, lower):
        shown = spread(len(depths), 5)
        axes.set_xticks(shown, [_depth_name(depth) for depth in shown])
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)


def ablation_figure(
    head_mean_LH: Tensor,
    head_significant_LH: Tensor,
    attention_mean_L: Tensor,
    attention_low_L: Tensor,
    attention_high_L: Tensor,
) -> Figure:
    """The change of the loss without each head (left) and without each layer's attention (right).

    Args:
        head_mean_LH: ΔCE, nats per token, NaN where not measured.
        head_significant_LH: Whether its confidence interval excludes 0, bool.
        attention_mean_L, attention_low_L, attention_high_L: ΔCE without a layer's attention and its confidence
            interval, nats per token.
    """
    L, H = head_mean_LH.shape
    wide, tall = clip(0.5 * H, 2.8, 8.6), clip(0.45 * L, 2.4, 10.2)  # inches, of the matrix
    bars = 3.6
    figure = Figure((0.75 + wide + 1.9 + bars + 0.35, tall + 1.6), dpi=DPI)
    add_heading(figure, "Change of the loss when a part is removed (above 0: it is of use)", 13)
    values_LH = to_array(head_mean_LH)
    reach = max(np.abs(values_LH[np.isfinite(values_LH)]).max(initial=0), 1e-9)
    norm = Normalize(-reach, reach)
    axes = add_axes(figure, (0.75, 0.8, wide, tall))
    axes.imshow(np.ma.masked_invalid(values_LH), cmap=GAIN_LOSS, norm=norm, aspect="auto", interpolation="nearest")
    unsure = np.argwhere(np.isfinite(values_LH) & ~head_significant_LH.cpu().numpy())
    dot = clip(0.22 * 72 * min(wide / H, tall / L), 1.5, 4)  # points
    axes.plot(unsure[:, 1], unsure[:, 0], "o", color="#495057", markersize=dot, markeredgewidth=0)
    heads_across(axes, H)
    layers_downwards(axes, L)
    axes.set_title("Each head", fontsize=11)
    add_scale(figure, (0.75 + wide + 0.12, 0.8, 0.14, tall), norm, "ΔCE (nats per token)", 8, GAIN_LOSS)
    mark = Line2D([], [], marker="o", color="#495057", linestyle="", markersize=dot, markeredgewidth=0)
    legend = {"loc": "lower left", "bbox_to_anchor": (0.02, 0.02 / (tall + 1.6)), "fontsize": 8, "frameon": False}
    figure.legend([mark], ["not significant: the confidence interval includes 0"], **legend)

    axes = add_axes(figure, (0.75 + wide + 1.9, 0.8, bars, tall))
    _draw_bars(axes, to_array(attention_mean_L), to_array(attention_low_L), to_array(attention_high_L))
    return figure


def _draw_bars(axes: Axes, mean_L: np.ndarray, low_L: np.ndarray, high_L: np.ndarray) -> None:
    L = len(mean_L)
    # Rounding can put the mean outside its interval, which matplotlib refuses.
    reach = np.stack([mean_L - low_L, high_L - mean_L]).clip(min=0)
    colours = [GAIN_LOSS(0.85 if mean > 0 else 0.15) for mean in mean_L]
    style = {"linewidth": 1, "capsize": clip(60 / L, 1, 3), "ecolor": "#1f2933"}
    axes.barh(range(L), mean_L, height=0.7, color=colours, xerr=reach, error_kw=style)
    axes.axvline(0, color="#1f2933", linewidth=0.8)
    layers_downwards(axes, L)
    axes.set_xlabel("ΔCE (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title("Each layer's attention, with its interval", fontsize=11)


def similarity_figure(cka_LL: Tensor) -> Figure:
    """How alike the residual stream is at each pair of depths: linear CKA, (L1, L1), from 0 to 1."""
    L1 = len(cka_LL)
    side = clip(0.45 * L1, 3.2, 9.5)
    figure = Figure((1.15 + side + 1.1, side + 1.35), dpi=DPI)
    axes = add_axes(figure, (1.15, 0.95, side, side))
    axes.imshow(to_array(cka_LL), cmap="viridis", norm=Normalize(0, 1), interpolation="nearest")
    shown = spread(L1, 24)
    names = [_depth_name(depth) for depth in shown]
    axes.set_xticks(shown, names, rotation=90, fontsize=8)
    axes.set_yticks(shown, names, fontsize=8)
    axes.set_xlabel(DEPTH, fontsize=9)
    axes.set_ylabel(DEPTH, fontsize=9)
    axes.set_title("Similarity of the layers", fontsize=12)
    add_scale(figure, (1.15 + side + 0.15, 0.95, 0.17, side), Normalize(0, 1), "linear CKA (0 to 1)", 9)
    return figure


def compare_figure(a: DepthScanResult, b: DepthScanResult, names: tuple[str, str]) -> Figure:
    """Two scans, one above the other, each metric on one scale; the networks may differ in size."""
    tall = [clip(1.25 + 0.3 * len(result.verdicts), 2.6, 5.2) for result in (a, b)]
    figure = Figure((WIDTH, min(sum(tall) + 1.6, HEIGHT)), dpi=DPI)
    add_heading(figure, "Two depth scans compared, on the same scales", 14)
    key_height = write_key(figure, key_of(a.verdicts + b.verdicts, WIDTH))
    share = (figure.get_figheight() - 0.4 - key_height) / sum(tall)  # of the wanted heights
    top = figure.get_figheight() - 0.4
    for result, name, wanted in zip((a, b), names, tall, strict=True):
        height = share * wanted
        step = "" if result.step is None else f", step {result.step}"
        facts = f"{step}: {result.sequences} sequences of {result.tokens} tokens"
        heading = fitted(known(name), WIDTH - 1 - text_width(facts, 12), 12) + facts
        place = 0.5 / WIDTH, (top - 0.05) / figure.get_figheight()
        figure.text(*place, heading, fontsize=12, va="top", color=BLUE, parse_math=False)
        for i, metric in enumerate(COMPARED):
            width = WIDTH / len(COMPARED)
            box = (i * width, top - height, width, height - 0.3)
            draw_matrix(figure, box, result, metric, metric_norm(metric, a, b))
        top -= height
    return figure


def _depth_name(depth: int) -> str:
    return "embedding" if depth == 0 else str(depth - 1)

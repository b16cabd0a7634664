"""What all pictures share: figures up to 1600 × 1200 pixels, axes placed in inches, colour scales, PNG files.

Only the object-oriented Figure, never pyplot: pyplot keeps every figure alive, and a callback draws thousands.
"""

import io
import math

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

from gpt_lightning.interpret.draw.cached_figures import Drawn

DPI = 100
WIDTH, HEIGHT = 16.0, 12.0  # inches, the largest figure
COLOURS = colormaps["viridis"].with_extremes(bad="#e9ecef")
Box = tuple[float, float, float, float]  # left, bottom, width, height in inches


def add_axes(figure: Figure, box: Box) -> Axes:
    """Axes at a place in inches. Since all places are known, nothing is drawn twice for the sake of layout."""
    width, height = figure.get_size_inches()
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def layers_downwards(axes: Axes, L: int) -> None:
    """Make layers the rows of axes, layer 0 on top."""
    axes.set_yticks(spread(L, 24))
    axes.set(ylabel="layer", ylim=(L - 0.5, -0.5))


def heads_across(axes: Axes, H: int) -> None:
    """Make heads the columns of axes."""
    axes.set_xticks(spread(H, 16))
    axes.set(xlabel="head", xlim=(-0.5, H - 0.5))


def add_scale(figure: Figure, box: Box, norm: Normalize, label: str, size: float, colours: Colormap = COLOURS) -> None:
    """A colour scale and its unit, with room for both to the right of the box."""
    axes = add_axes(figure, box)
    figure.colorbar(ScalarMappable(norm, colours), cax=axes).set_label(label, fontsize=size)
    axes.tick_params(labelsize=size, length=2)


def add_heading(figure: Figure, text: str, size: float) -> None:
    """A title on top of a figure."""
    figure.suptitle(text, fontsize=size, y=from_top(figure, 0.08), parse_math=False)


def from_top(figure: Figure, inches: float) -> float:
    """A distance from the top as matplotlib counts it: a share of the figure's height, from the bottom."""
    return 1 - inches / figure.get_figheight()


def spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced indices below `count`, from 0."""
    return list(range(0, count, max(1, math.ceil(count / most))))


def clip(value: float, low: float, high: float) -> float:
    """The number from `low` to `high` nearest to `value`."""
    return min(max(value, low), high)


def to_array(values: Tensor) -> np.ndarray:
    """float32, from any device."""
    return values.detach().float().cpu().numpy()


def to_png(picture: Figure | Drawn) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    # The lowest compression takes a tenth of the time; files are a third larger.
    imsave(buffer, pixels_of(picture), format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def pixels_of(picture: Figure | Drawn) -> np.ndarray:
    """RGBA, (height, width, 4) uint8."""
    if isinstance(picture, Drawn):
        return picture.pixels
    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())

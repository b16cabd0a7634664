"""Pictures whose frame stays while their contents change: the frame is drawn once, then only the contents.

Axes, ticks and texts (0.1 ms a letter) cost ten times as much as what they surround, and a training run draws the same
pictures at every validation. This is matplotlib's blitting: keep the frame's pixels, restore them, draw on top.

A caller that draws repeatedly keeps frames of its own, in which nobody else draws: `kept_frames()`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

MOST_FRAMES = 8  # the depth scan needs six: matrices on five scales, and the entropy over time
Frames = Callable[..., Any]  # frames(make, *arguments) is what make(*arguments) returns


def new_frame(make: Callable, *arguments: Any) -> Any:
    """Frames for a caller that draws once: every frame is made anew."""
    return make(*arguments)


def kept_frames() -> Frames:
    """Frames for one owner, who keeps those used last; they go when the owner does."""
    return lru_cache(MOST_FRAMES)(new_frame)


@dataclass(frozen=True)
class Drawn:
    """A finished picture, which the next one in its frame cannot change.

    Attributes:
        pixels: RGBA, (height, width, 4) uint8, a copy of its own.
        figure: The frame's figure, valid until the next picture.
    """

    pixels: np.ndarray
    figure: Figure


class Frame:
    """A figure in which some artists change from picture to picture.

    Args:
        figure: Complete, with any contents.
        changing: The artists that change, and those that lie on top of them, such as the spines around an image.
        captions: Texts that touch none of these, redrawn only when they change.
    """

    def __init__(self, figure: Figure, changing: Iterable[Artist], captions: Iterable[Text] = ()) -> None:
        self.figure, self.canvas = figure, FigureCanvasAgg(figure)
        self.changing, self.captions = sorted(changing, key=lambda artist: artist.zorder), list(captions)
        for artist in self.changing + self.captions:
            artist.set_animated(True)  # leaves it out when the figure is drawn
        self.canvas.draw()
        for artist in self.changing + self.captions:
            artist.set_animated(False)
        self.empty = self.canvas.copy_from_bbox(figure.bbox)
        self.background, self.words = self.empty, None  # with the captions, whose words these are

    def draw(self) -> Drawn:
        """The frame with what its artists show now."""
        words = [text.get_text() for text in self.captions]
        if words != self.words:
            self.canvas.restore_region(self.empty)
            self._add(self.captions)
            self.background, self.words = self.canvas.copy_from_bbox(self.figure.bbox), words
        self.canvas.restore_region(self.background)
        self._add(self.changing)
        return Drawn(np.array(self.canvas.buffer_rgba()), self.figure)

    def _add(self, artists: Iterable[Artist]) -> None:
        for artist in artists:
            artist.draw(self.canvas.get_renderer())

"""Pictures whose frame stays and whose contents change: the frame is drawn once, each picture draws only the contents.

Axes, ticks and texts (0.1 ms a letter) cost ten times as much as what they surround, and a training run draws the same
pictures at every validation. This is matplotlib's blitting: keep the pixels of the frame, restore them, draw on top.

A caller that draws again and again keeps frames of its own, in which nobody else draws: `kept_frames()`.
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
    """The Frames of a caller that draws once: every frame is made anew."""
    return make(*arguments)


def kept_frames() -> Frames:
    """Frames of one owner: those used last are kept for the same arguments. Without their owner they all go."""
    return lru_cache(MOST_FRAMES)(new_frame)


@dataclass(frozen=True)
class Drawn:
    """A picture that is drawn already, so that the next one of its frame cannot change it.

    Attributes:
        pixels: RGBA, (height, width, 4) uint8, a copy of its own.
        figure: The frame's figure, to look into at once: the next picture changes it.
    """

    pixels: np.ndarray
    figure: Figure


class Frame:
    """A figure in which some artists change from picture to picture.

    Args:
        figure: Complete, with any contents.
        changing: The artists that change, and those that lie on top of them, such as the spines around an image.
        seldom: Texts away from those, drawn again only when they say something else.
    """

    def __init__(self, figure: Figure, changing: Iterable[Artist], seldom: Iterable[Text] = ()) -> None:
        self.figure, self.canvas = figure, FigureCanvasAgg(figure)
        self.changing, self.seldom = sorted(changing, key=lambda artist: artist.zorder), list(seldom)
        for artist in self.changing + self.seldom:
            artist.set_animated(True)  # leaves it out when the figure is drawn
        self.canvas.draw()
        for artist in self.changing + self.seldom:
            artist.set_animated(False)
        self.empty = self.canvas.copy_from_bbox(figure.bbox)
        self.background, self.words = self.empty, None

    def draw(self) -> Drawn:
        """The frame around what the changing artists show now."""
        words = [text.get_text() for text in self.seldom]
        if words != self.words:
            self.canvas.restore_region(self.empty)
            self._add(self.seldom)
            self.background, self.words = self.canvas.copy_from_bbox(self.figure.bbox), words
        self.canvas.restore_region(self.background)
        self._add(self.changing)
        return Drawn(np.array(self.canvas.buffer_rgba()), self.figure)

    def _add(self, artists: Iterable[Artist]) -> None:
        for artist in artists:
            artist.draw(self.canvas.get_renderer())

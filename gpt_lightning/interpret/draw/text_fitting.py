"""Any text made fit to draw: in characters that the font has, and as much of it as there is room for."""

from matplotlib.font_manager import findfont, get_font
from matplotlib.ft2font import FT2Font

from gpt_lightning.interpret.draw.canvas import DPI

FONT = "DejaVu Sans"  # comes with matplotlib


def drawable(text: str) -> str:
    """At most 12 characters of a token's text, those that the font lacks as boxes."""
    return shorten(known(text), 12)


def known(text: str) -> str:
    """The text with the characters that the font lacks as boxes, for which matplotlib would warn."""
    font = _font()
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in text)


def shorten(text: str, most: int) -> str:
    """The first `most` characters, an ellipsis the last of them if any are missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def fitted(text: str, width: float, size: float) -> str:
    """As much of a line of `known` characters as fits into `width` inches at `size` points."""
    most = len(text)
    while most > 1 and text_width(shorten(text, most), size) > width:
        most -= 1
    return shorten(text, most)


def text_width(text: str, size: float) -> float:
    """Inches that a line takes at `size` points."""
    font = _font()
    font.set_size(size, DPI)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / DPI  # it counts in 64ths of a pixel


def _font() -> FT2Font:
    return get_font(findfont(FONT))

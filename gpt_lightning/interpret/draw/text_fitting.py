"""Make any text fit to draw: only characters that the font has, and as many of them as there is room for."""

from matplotlib.font_manager import findfont, get_font
from matplotlib.ft2font import FT2Font

from gpt_lightning.interpret.draw.canvas import DPI

FONT = "DejaVu Sans"  # comes with matplotlib


def drawable(text: str) -> str:
    """At most 12 characters of a token's text, with boxes for those that the font lacks."""
    return shorten(known(text), 12)


def known(text: str) -> str:
    """The text with boxes for characters that the font lacks, of which matplotlib would warn."""
    font = _font()
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in text)


def shorten(text: str, most: int) -> str:
    """At most `most` characters; where some are cut, the last one is an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def fitted(text: str, width: float, size: float) -> str:
    """As much of a line of `known` characters as fits into `width` inches at `size` points."""
    most = len(text)
    while most > 1 and text_width(shorten(text, most), size) > width:
        most -= 1
    return shorten(text, most)


def text_width(text: str, size: float) -> float:
    """The width of a line at `size` points, in inches."""
    font = _font()
    font.set_size(size, DPI)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / DPI  # from 64ths of a pixel


def _font() -> FT2Font:
    return get_font(findfont(FONT))

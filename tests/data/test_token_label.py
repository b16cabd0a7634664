"""Token ids as visible text."""

import pytest
import tiktoken

from gpt_lightning.data.token_label import token_label

TOKENS = {
    " the": "␣the",
    "\n\n": "⏎⏎",
    "\t\r": "⇥␍",
    "é": "é",
    "漢字": "漢字",
    "😀": "😀",
    "\x00": "\\x00",
    "\u200b": "\\u200b",  # a space without width
    "\u00a0": "\\xa0",
    "'": "'",
    "\\": "\\",
    b"\xff\xfe": "\\xff\\xfe",
    b"\xe2\x82": "\\xe2\\x82",  # the beginning of a euro sign
}
ENCODING = tiktoken.Encoding(
    "test",
    pat_str=".",
    mergeable_ranks={t if isinstance(t, bytes) else t.encode(): i for i, t in enumerate(TOKENS)},
    special_tokens={"<|endoftext|>": 1000},
)


@pytest.mark.parametrize(("token", "label"), list(enumerate(TOKENS.values())))
def test_every_token_is_visible(token, label):
    assert token_label(ENCODING, token) == label
    assert label.isprintable()
    assert not any(character.isspace() for character in label)


def test_a_special_token_shows_its_text():
    assert token_label(ENCODING, 1000) == "<|endoftext|>"


def test_an_id_of_no_token_shows_the_id():
    assert token_label(ENCODING, 500) == "<500>"

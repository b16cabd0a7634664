"""Token ids as short visible text, for axes, verdicts and reports."""

import tiktoken

VISIBLE = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"}


def token_label(encoding: tiktoken.Encoding, token: int) -> str:
    """The text of one token, with white space made visible. Bytes that are not text become `\\xNN`, unused ids `<id>`.

    >>> token_label(tiktoken.Encoding("x", pat_str=".", mergeable_ranks={b"a b": 0}, special_tokens={}), 0)
    'a␣b'
    """
    try:
        text = encoding.decode_single_token_bytes(token).decode("utf-8", "backslashreplace")
    except KeyError:  # a vocabulary padded to a round number has unused ids
        return f"<{token}>"
    return "".join(VISIBLE.get(c, c if c.isprintable() else repr(c)[1:-1]) for c in text)

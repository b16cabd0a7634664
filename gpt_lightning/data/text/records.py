"""Records of text, whatever file they come from: a record maps names to values, one of which is its text.

A record without text is an error: training on half a corpus without knowing it would be worse.
"""

from gpt_lightning.errors import UserError

INSTALL = "pip install -r requirements-data.txt"


def text_of(record: object, text_key: str, where: str) -> str | None:
    """The text of a record; None if it is null.

    Args:
        record: Any value, such as one read from JSON.
        text_key: The name of the text.
        where: Where the record is, to begin an error message with.

    Raises:
        UserError: the record has no text under that name.
    """
    if not isinstance(record, dict) or text_key not in record:
        keys = f"only {', '.join(map(repr, record))}" if isinstance(record, dict) and record else "no key at all"
        raise UserError(f"{where} has no text under {text_key!r}, {keys}: name the key with --data.text_key.")
    text = record[text_key]
    if text is not None and not isinstance(text, str):
        raise UserError(
            f"{where} has no text under {text_key!r} but a value of type {type(text).__name__}: set --data.text_key."
        )
    return text

"""What a record is, whatever it comes from: some values by their names, one of which is a text.

A record without a text is an error: to train on half a corpus unawares is worse.
"""

from gpt_lightning.errors import UserError

INSTALL = "pip install -r requirements-data.txt"


def text_of(record: object, text_key: str, where: str) -> str | None:
    """The text in a record; None if it is null.

    Args:
        record: Anything.
        text_key: The name of the value.
        where: Of the record, for the beginning of a message.

    Raises:
        UserError: it has no text under that key.
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

"""The one exception that means "the user can fix this".

The library raises it with a sentence that names the thing and the way out. The entry points print that sentence and
exit with a non-zero status, without a traceback.
"""


class UserError(Exception):
    """Bad input, a missing file, a checkpoint of another shape: the message is one clear sentence for the user."""

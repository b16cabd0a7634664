"""How the entry points end when something is wrong: one line on stderr and a non-zero exit status, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gpt_lightning.errors import UserError


@contextmanager
def clear_errors(*more: type[Exception]) -> Iterator[None]:
    """Turn what the user can mend (UserError, a file that can't be read or written, and exceptions of the types in
    `more`) and Ctrl-C into one line and an exit status of 1 (130 after Ctrl-C). Anything else is a bug and keeps its
    traceback."""
    try:
        yield
    except (UserError, *more) as error:
        _exit(str(error), 1)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _exit(f"{error.strerror}: {error.filename}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        _exit("Interrupted.", 130)


def _exit(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    # `from None`: the cause is for the user's eyes already; a traceback would bury it.
    raise SystemExit(status) from None

"""How a command ends when something is wrong: with one line on stderr and a non-zero exit status, but no traceback."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from gpt_lightning.errors import UserError


@contextmanager
def clear_errors(*more: type[Exception]) -> Iterator[None]:
    """Turn what the user can mend (a UserError, a file that can't be read or written, exceptions of the types in
    `more`) into one line and exit status 1, and Ctrl-C into one line and 130. Anything else is a bug and keeps its
    traceback."""
    try:
        yield
    except (UserError, *more) as error:
        _exit(str(error), 1)
    except BrokenPipeError:  # the reader of the output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's own flush at exit complains
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _exit(f"{error.strerror}: {os.fsdecode(error.filename)}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        _exit("Interrupted.", 130)


class OneLineParser(argparse.ArgumentParser):
    """argparse, with errors of one line that suggest the right spelling of a misspelt option."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and exit with 2, as argparse does."""
        usage_error(message, self._option_string_actions, self.prog)


def usage_error(message: str, options: Iterable[str], program: str) -> NoReturn:
    """Print a parser's message as one line, with a hint if the command line has a misspelt option; exit with 2."""
    message = in_plain_words(message)
    hint = f"; {program} --help lists all options"
    for argument in sys.argv[1:]:
        name = argument.split("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in options):
            close = difflib.get_close_matches(name, options, n=1)
            hint = f" ({name}: did you mean {close[0]}?)" if close else f" ({name} is no option)"
            break
    print(f"error: {message}{hint}", file=sys.stderr)
    raise SystemExit(2)


def in_plain_words(message: str) -> str:
    """A parser's message as one line, without jsonargparse's words around the reason, which mean nothing to a user."""
    message = " ".join(message.split())
    message = re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    message = re.sub(
        r"Does not validate against any of the Union .* Errors: (.*) Given value type: .* Given value: (.*)$",
        lambda union: _reason(union[1], union[2]),
        message,
    )
    message = re.sub(r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)$", r"\2 is not one of \1", message)
    message = re.sub(r"Expected a <class '([\w.]+)'>\. Got value: (.*)$", r"\2 is not of type \1", message)
    return re.sub(r"\bNot of type \w+: ", "", message)


def _reason(errors: str, value: str) -> str:
    """Why a value is of none of several types, such as a range or None, according to the ranges."""
    reasons = re.findall(r"- Not of type \w+: (.*?)(?= - |$)", errors)
    if not reasons:
        return f"no such value: {value}"
    reason = " or ".join([reasons[0], *(more.removeprefix("is out of range: it must be ") for more in reasons[1:])])
    return f"{value} {reason}" if reason.startswith("is ") else reason  # jsonargparse cuts the value off


def _exit(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status) from None

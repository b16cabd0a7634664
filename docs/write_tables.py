"""Rewrite the tables in docs/ that follow from the code, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    python -m docs.write_tables

`make docs` calls it; tests/test_docs.py fails when a table is out of date.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from gpt_lightning.data.text import formats
from gpt_lightning.interpret.judge.alarms import ALARMS
from gpt_lightning.interpret.judge.verdicts import KINDS
from gpt_lightning.interpret.metrics import METRICS

DOCS = Path(__file__).parent


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, whose cells are Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def metrics() -> str:
    rows = ((f"`{name}`", row.unit, row.meaning) for name, row in METRICS.items())
    return markdown(("metric", "unit", "what it says"), rows)


def verdicts() -> str:
    rows = ((kind.letter, name, kind.meaning, kind.advice) for name, kind in KINDS.items())
    return markdown(("letter", "verdict", "the head …", "what to do"), rows)


def alarms() -> str:
    rows = ((name, row.when, f"The layer {row.meaning}.", row.advice) for name, row in ALARMS.items())
    return markdown(("alarm", "when", "what it means", "what to try"), rows)


TABLES = {"metrics": metrics, "verdicts": verdicts, "alarms": alarms, "formats": formats.table}


def with_tables(page: str) -> str:
    """A page with its tables as the code has them now."""
    place = re.compile(r"(<!-- (\w+): begin -->\n).*?(<!-- \2: end -->)", re.DOTALL)
    return place.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", page)


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(with_tables(path.read_text()))

"""Rewrite the tables in docs/ that follow from the code, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    python -m docs.write_tables

`make docs` calls it; a test says when it is due.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gpt_lightning.data.text import formats
from gpt_lightning.interpret.judge.alarms import ALARMS
from gpt_lightning.interpret.judge.verdicts import KINDS
from gpt_lightning.interpret.metrics import METRICS

DOCS = Path(__file__).parent


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what stands in a cell is Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def metrics() -> str:
    """Every metric of the depth scan."""
    rows = ((f"`{name}`", row.unit, row.meaning) for name, row in METRICS.items())
    return markdown(("metric", "unit", "what it says"), rows)


def verdicts() -> str:
    """Every kind of head."""
    rows = ((kind.letter, name, kind.meaning, kind.advice) for name, kind in KINDS.items())
    return markdown(("letter", "verdict", "the head …", "what to do"), rows)


def alarms() -> str:
    """Every alarm."""
    rows = ((name, row.when, f"The layer {row.meaning}.", row.advice) for name, row in ALARMS.items())
    return markdown(("alarm", "when", "what it means", "what to try"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "metrics": metrics,
    "verdicts": verdicts,
    "alarms": alarms,
    "formats": formats.table,
}


def with_tables(page: str) -> str:
    """A page with its tables as the code has them now."""
    return re.sub(r"(<!-- (\w+): begin -->\n).*?(<!-- \2: end -->)", _with_table, page, flags=re.DOTALL)


def _with_table(place: re.Match) -> str:
    return f"{place[1]}{TABLES[place[2]]()}\n{place[3]}"


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(with_tables(path.read_text()))

"""The tables in docs/ match the code."""

import pytest

from docs.write_tables import DOCS, TABLES, with_tables

PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_code(page):
    assert with_tables(page.read_text()) == page.read_text(), "make docs rewrites them"


def test_every_table_stands_on_a_page():
    text = "".join(page.read_text() for page in PAGES)
    assert all(f"<!-- {name}: begin -->" in text and f"<!-- {name}: end -->" in text for name in TABLES)
    assert "`normalized_entropy`" in text

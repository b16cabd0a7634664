"""The commands, links, configs and tests that README and docs name exist and work."""

import re
import shlex

import pytest

from tests.conftest import REPO

PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
COMMANDS = sorted(
    {
        line.split("  #")[0].strip()
        for page in PAGES
        for line in re.findall(r"^    (python \w+\.py.*)$", page.read_text(), re.MULTILINE)
    }
)


def test_there_are_commands_to_try():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train.py" in c and "audit" not in c])
def test_every_training_command_parses(main, monkeypatch, command):
    monkeypatch.chdir(REPO)  # where a user types it
    _, script, *args = shlex.split(re.sub(r"\s+#.*|\s{2,}\S.*$", "", command))
    status, out, err = main(script, *args, "--print_config")
    assert status == 0, err
    assert "n_layer" in out


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train.py" not in c or "audit" in c])
def test_every_other_command_gets_as_far_as_its_checkpoint(main, command):
    """There is no such run in the test's directory; everything before that has to be right."""
    _, script, *args = shlex.split(command)
    status, _, err = main(script, *args)
    assert status == 1
    assert err.startswith("error: There is no checkpoint at runs/default/version_0/checkpoints/last.ckpt")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_every_config_is_described():
    described = set(re.findall(r"[\w-]+\.yaml", (REPO / "README.md").read_text()))
    assert {path.name for path in (REPO / "configs").glob("*.yaml")} <= described


def test_every_promise_names_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (REPO / "docs/promises.md").read_text())
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (REPO / file).read_text(), f"{file}::{test}"

"""Parsers' errors in one plain line."""

from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from gpt_lightning.command_line import OneLineParser, usage_error
from gpt_lightning.ranges import ClosedUnitInterval, NonNegativeInt, PositiveInt


class Thing:
    def __init__(
        self,
        warmup_steps: NonNegativeInt = 1,
        decay_steps: PositiveInt | None = None,
        size: PositiveInt | ClosedUnitInterval | None = None,
        steps: int | None = None,
        rate: float = 1.0,
        kind: Literal["a", "b"] = "a",
    ) -> None:
        pass


class Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> None:
        usage_error(message, [], "train.py fit")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("warmup_steps", "-1", "-1 is out of range: it must be at least 0"),
        ("warmup_steps", "x", "'x' is not a whole number"),
        ("decay_steps", "0", "0 is out of range: it must be at least 1"),
        ("decay_steps", "1.5", "'1.5' is not a whole number"),
        ("size", "-1", "-1 is out of range: it must be at least 1 or from 0 to 1"),
        ("steps", "x", "no such value: x"),
        ("rate", "fast", "fast is not of type float"),
        ("kind", "c", "c is not one of 'a', 'b'"),
    ],
)
@pytest.mark.parametrize("where", ["command line", "file"])
def test_a_value_that_a_type_refuses(capsys, monkeypatch, tmp_path, option, value, message, where):
    monkeypatch.setattr("sys.argv", ["train.py"])
    parser = Parser()
    parser.add_class_arguments(Thing, "model")
    parser.add_argument("--config", action="config")
    (tmp_path / "some.yaml").write_text(f"model:\n  {option}: {value}\n")
    given = f"--model.{option}={value}" if where == "command line" else f"--config={tmp_path / 'some.yaml'}"
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([given])
    message = message.replace("'1.5'", "1.5") if where == "file" else message
    assert capsys.readouterr().err == f"error: model.{option}: {message}; train.py fit --help lists all options\n"


def test_argparse_gives_the_reason_of_a_range(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["some.py"])
    parser = OneLineParser(prog="some.py")
    parser.add_argument("--steps", type=PositiveInt)
    parser.add_argument("--number", type=int)
    assert parser.parse_args(["--steps=3"]).steps == 3
    for given, message in (
        ("--steps=0", "--steps: 0 is out of range: it must be at least 1"),
        ("--number=x", "--number: invalid int value: 'x'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([given])
        assert capsys.readouterr().err == f"error: argument {message}; some.py --help lists all options\n"

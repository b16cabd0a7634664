"""Types with ranges: what they take, from Python and from a parser, and that values stay plain numbers."""

import argparse
import math

import pytest
from jsonargparse import ArgumentParser

from gpt_lightning.errors import UserError
from gpt_lightning.ranges import (
    AboveOne,
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Seed,
    ShareBelowOne,
    check_arguments,
)


class Thing:
    def __init__(self, n: PositiveInt = 3, rate: PositiveFloat = 0.1, most: NonNegativeInt | None = None):
        self.n, self.rate, self.most = n, rate, most


def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Thing, "thing")
    return parser


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (
            PositiveInt,
            [1, "7", 2**53 - 1, 1e9],
            [0, -1, 2**53, 1.5, "1.5", "15e-1", "1e400", "x", None, True, math.nan, math.inf, []],
        ),
        (NonNegativeInt, [0, "7"], [-1, 0.5]),
        (Seed, [0, 2**63 - 1], [-1, 2**63]),
        (PositiveFloat, [1e-300, "2"], [0, -1, math.inf, math.nan, "x", True]),
        (NonNegativeFloat, [0, 3], [-1e-9, math.inf, math.nan]),
        (AboveOne, [1.001, math.inf], [1, math.nan]),
        (ClosedUnitInterval, [0, 1], [-0.1, 1.1]),
        (PositiveShare, [1e-9, 1], [0, 1.1]),
        (ShareBelowOne, [0, 0.999], [1, -0.1]),
    ],
)
def test_a_range_takes_what_is_inside_and_refuses_the_rest(kind, inside, outside):
    for value in inside:
        assert kind(value) == (int(value) if isinstance(value, int) else float(value))
        assert type(kind(value)) in (int, float)
    for value in outside:
        with pytest.raises(ValueError, match=r"is not a|is out of range"):
            kind(value)


def test_a_large_number_may_be_written_with_an_exponent():
    assert (PositiveInt("1e9"), PositiveInt("2.5E6")) == (10**9, 2_500_000)
    assert type(PositiveInt("1e9")) is int


def test_a_parser_holds_the_command_line_and_yaml_to_ranges_and_hands_on_plain_numbers():
    thing = parser().instantiate(parser().parse_args(["--thing.n=5", "--thing.rate=2", "--thing.most=7"])).thing
    assert [type(value) for value in (thing.n, thing.rate, thing.most)] == [int, float, int]
    assert type(parser().parse_object({"thing": {"rate": 1}}).thing.rate) is float
    for bad in ({"n": 0}, {"n": 2.5}, {"rate": math.nan}, {"most": -1}):
        with pytest.raises(Exception, match=r"thing\."):
            parser().parse_object({"thing": bad})
    assert "PositiveInt" in parser().format_help()


def test_argparse_says_why_a_value_is_refused(capsys):
    plain = argparse.ArgumentParser()
    plain.add_argument("--rate", type=PositiveFloat)
    with pytest.raises(SystemExit):
        plain.parse_args(["--rate=0"])
    assert "argument --rate: 0 is out of range: it must be above 0 and finite" in capsys.readouterr().err


def test_a_caller_from_python_is_told_of_every_argument_that_is_out_of_range():
    check_arguments(Thing.__init__, {"n": 1, "rate": 1.0, "most": None}, "thing")
    with pytest.raises(UserError, match=r"^thing\.x is empty; thing\.n: 0 is out of range: .*\.$"):
        check_arguments(Thing.__init__, {"n": 0, "rate": 1.0}, "thing", ["thing.x is empty"])
    with pytest.raises(UserError, match=r"^thing\.x is empty\.$"):
        check_arguments(Thing.__init__, {"n": 1, "rate": 1.0}, "thing", ["thing.x is empty"])
    with pytest.raises(UserError, match=r"^thing\.n: 0 is out of range: .*; thing\.most: -1 is out of range: .*\.$"):
        check_arguments(Thing.__init__, {"n": 0, "rate": 1.0, "most": -1}, "thing")

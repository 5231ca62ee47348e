"""What commands print."""

import math

from fmce.console.tables import epochs, number, percent, print_table


def test_undefined_numbers_are_dashes():
    assert [percent(None), percent(math.nan), number(None), number(math.nan)] == ["–"] * 4
    assert epochs(None) == "none"


def test_numbers_are_rounded_as_asked():
    assert percent(0.98765) == "98.77 %"
    assert number(0.000123456) == "0.0001235"
    assert number(0.0312, 2) == "0.031"
    assert epochs((3, 5)) == "[3, 5]"


def test_a_table_has_its_title_header_and_rows(capsys):
    print_table("Results of [bold]x", ("arm", "mean"), [("ral", 0.5), ("none", None)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Results", "of", "[bold]x"] in lines
    assert ["arm", "mean"] in lines
    assert ["ral", "0.5"] in lines
    assert ["none", "–"] in lines


def test_square_brackets_are_no_markup(capsys):
    print_table("Modules", ("module", "n"), [("fpn[pool]", 1)])
    assert "fpn[pool]" in capsys.readouterr().out

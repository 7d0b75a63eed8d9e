"""Columns for a terminal."""

from bsprobe.report.terminal import WIDTH, fitted


def test_a_name_that_is_too_long_for_the_width_goes_on_below() -> None:
    name = "* fp32 / batch / checkpointing on / nhwc / adamw / loss at logits"
    figures = ("1234567890123456789", "12345678901234567890")
    assert fitted([("", "largest", "use"), (name, *figures), ("  short", "1", "2")]) == [
        f"{'largest':>56}{'use':>22}",
        (
            "* fp32 / batch / checkpointing on /  1234567890123456789  12345678901234567890\n"
            "  nhwc / adamw / loss at logits"
        ),
        f"  short{'1':>49}{'2':>22}",
    ]


def test_a_table_that_fits_is_left_alone() -> None:
    rows = fitted([("", "largest"), ("  a name of some length", "1")])
    assert rows == [f"{'largest':>32}", f"  a name of some length{'1':>9}"]
    assert max(map(len, rows)) < WIDTH

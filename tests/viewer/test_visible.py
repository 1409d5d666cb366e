import unicodedata

import pytest

from dmaxlit.viewer.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 👩‍🔬", "plain é 漢 👩‍🔬"),
        ("\x1b[31m", "␛[31m"),
        ("\x00\x7f", "␀␡"),
        ("a\nb\tc\r", "a↵\nb→\tc␍"),
        ("\x9b", "\\x9b"),
        ("\u202ereversed", "\\u202ereversed"),
        ("\u200b\ufeff", "\\u200b\\ufeff"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
        ("soft\xadhyphen", "soft\\xadhyphen"),
        ("\u2064\u3164\uffa0", "\\u2064\\u3164\\uffa0"),
        ("\U000e0041\U0001d173", "\\U000e0041\\U0001d173"),  # tags spell out hidden text
    ],
)
def test_what_cannot_be_seen_is_written_out(text, shown):
    assert visible(text) == shown


def test_no_control_character_but_line_ends_and_tabs_is_left():
    every = "".join(map(chr, range(0x3000)))
    left = {character for character in visible(every) if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")}
    assert left == {"\n", "\t"}

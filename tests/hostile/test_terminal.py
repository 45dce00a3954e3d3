"""Printed text moves no cursor, hides nothing and reorders nothing."""

import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hostile.corpus import ALL

from sparring.report.escape import line, safe

BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
DRAWN = {
    *range(0x600, 0x606),  # Arabic number signs
    *(0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD),  # signs around numbers
    *range(0x13430, 0x13456),  # how Egyptian hieroglyphs are stacked
}
"""Characters of category Cf that have a shape of their own."""
NOT_DRAWN = {
    *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
}
"""Letters and marks that have none."""


def dangerous(character: str) -> bool:
    """Whether Unicode's tables make the character dangerous; independent of the tested code."""
    kind, code = unicodedata.category(character), ord(character)
    return (
        (kind in {"Cc", "Cs", "Zl", "Zp"} and character not in "\n\t")
        or (kind == "Cf" and code not in DRAWN)
        or unicodedata.bidirectional(character) in BIDI
        or code in NOT_DRAWN
        or 0xE0000 <= code < 0xE1000
    )


def test_of_all_characters_exactly_the_dangerous_ones_are_left_out():
    characters = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = set(safe(characters))
    assigned = [c for c in characters if unicodedata.category(c) not in {"Cn", "Co"}]
    assert {hex(ord(c)) for c in assigned if dangerous(c)} == {
        hex(ord(c)) for c in assigned if c not in shown
    }
    assert not any(map(dangerous, shown))


def assert_made_safe(text: str) -> None:
    shown = safe(text)
    assert not any(map(dangerous, shown))
    assert safe(shown) == shown
    assert "\n" not in line(text)


anything = st.text(st.characters(exclude_categories=()), max_size=60)
sequences = st.lists(st.sampled_from("\x1b[]PX^_\\?;0123mHJKc\x07\x9b\x9c\u202eA ")).map("".join)


@settings(max_examples=500, deadline=None)
@given(anything | sequences)
def test_whatever_is_made_safe_is_safe_and_stays_as_it_is(text):
    assert_made_safe(text)


@pytest.mark.parametrize("text", ALL)
def test_every_hostile_string_is_made_safe(text):
    assert_made_safe(text)


@pytest.mark.parametrize(
    "text",
    [
        "open the dragon vault",
        "two\nlines\tand a tab",
        "für élève, 龙的宝库, пещера дракона, خزانة التنين, גנזך הדרקון, ड्रैगन",
        "e\u0301 and \u1112\u1161\u11ab, combined",
        "🐉 🔐 ½ × → ∑ “quoted” …",
        "[bold]{{7*7}} %(x)s ${x}[/bold] <b> \\x1b[31m",
    ],
)
def test_plain_text_is_printed_as_it_is(text):
    assert safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\x1b[2J\x1b[Hb", "ab"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://127.0.0.1/\x1b\\vault\x1b]8;;\x1b\\", "vault"),
        ("\x1bP+q544e\x1b\\text", "text"),
        ("over\rwrite", "overwrite"),
        ("\x9b31mred", "31mred"),
        ("\u202etluav", "tluav"),
        ("\x1b\x1b[31[31mm", "31mm"),
    ],
)
def test_a_sequence_goes_whole_and_leaves_the_text_around_it(text, shown):
    assert safe(text) == shown


@pytest.mark.parametrize(
    "piece", ["a", "\x1b[", "\x1b]", "\x1b[0;", "\x1b]a\x1b", "\x1b[0", "\u202e", "0;", "\x1b\x1b"]
)
def test_a_megabyte_takes_less_than_a_second(piece):
    text = "\x1b[" + piece * (1_000_000 // len(piece))
    started = time.process_time()
    safe(text)
    assert time.process_time() - started < 1

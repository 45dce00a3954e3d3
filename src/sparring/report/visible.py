"""Text as a page or a figure shows it: what would hide or reorder is spelled out, not removed."""

from __future__ import annotations

import re

from sparring.report.terminal import UNSEEN

_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    chr(0x10000 * plane + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
"""Valid in Python, but neither in XML nor in HTML."""
_RUN = re.compile(f"{UNSEEN[:-1]}{_NONCHARACTERS}]+")
_EACH = 3
LONGEST_NAME = 120


def visible(text: str) -> str:
    """`text` with every control, bidi, invisible or unpaired character as `⟦U+202E⟧`.

    A run of more than three is told by its first one and their number. New lines and tabs stay.
    Text without such characters stays as it is, so whatever is shown can be read back.
    """
    return _RUN.sub(lambda found: _spelled(found[0]), text)


def hidden(text: str) -> int:
    """How many characters of `text` would hide or reorder."""
    return sum(len(found[0]) for found in _RUN.finditer(text))


def name(text: str, longest: int = LONGEST_NAME) -> str:
    """A name on one line, cut where it is longer than any name should be."""
    shown = " ".join(visible(text[: 2 * longest]).split())
    cut = len(text) > 2 * longest or len(shown) > longest
    return f"{shown[:longest]}… ({len(text):,} characters)" if cut else shown


def _spelled(run: str) -> str:
    told = "".join(f"⟦U+{ord(c):04X}⟧" for c in run[:_EACH])
    return told if len(run) <= _EACH else f"⟦U+{ord(run[0]):04X} and {len(run) - 1} more⟧"

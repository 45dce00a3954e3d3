"""Text that is safe to print: hostile strings cannot move the cursor or reorder a line."""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]?"
)
UNSEEN = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff"
    # Unicode's Default_Ignorable_Code_Point: whatever is drawn as nothing
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
"""A character class: what moves a cursor, reorders text, or is drawn as nothing."""
_CONTROLS = re.compile(UNSEEN)


def safe(text: str) -> str:
    """`text` without escape sequences, control, bidi, invisible or unpaired characters.

    New lines and tabs stay. Idempotent.
    """
    while True:
        cleaner = _CONTROLS.sub("", _SEQUENCES.sub("", text))
        if cleaner == text:
            return text
        text = cleaner


def line(text: str) -> str:
    """`safe(text)` on one line."""
    return safe(text).replace("\n", " ")

"""Text that is safe to print: hostile strings cannot move the cursor or reorder a line."""

from __future__ import annotations

import re

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]?"
)
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    "|[\U000e0000-\U000e007f]"
)


def safe(text: str) -> str:
    """`text` without escape sequences, control, bidi, invisible or unpaired characters.

    New lines and tabs stay. Idempotent.
    """
    while True:
        cleaner = _CONTROLS.sub("", _SEQUENCES.sub("", text))
        if cleaner == text:
            return text
        text = cleaner

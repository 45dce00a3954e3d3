"""Text as a terminal, a page or a figure may show it: nothing moves a cursor, reorders or hides."""

import hashlib
import re

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]?"
)
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff"
    # Unicode's Default_Ignorable_Code_Point: whatever is drawn as nothing
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_CONTROLS = re.compile(f"[{_UNSEEN}]")
# Noncharacters are valid in Python, but neither in XML nor in HTML.
_LAST = "".join(
    chr(0x10000 * plane + 0xFFFE) + chr(0x10000 * plane + 0xFFFF) for plane in range(17)
)
_HIDING = re.compile(f"[{_UNSEEN}\ufdd0-\ufdef{_LAST}]+")
_EACH = 3
LONGEST_NAME = 120
_LONGEST_TEXT = 4_000


def safe(text: str) -> str:
    """Remove escape sequences and control, bidi, invisible and unpaired characters from `text`.

    New lines and tabs stay. Idempotent.
    """
    while True:
        cleaner = _CONTROLS.sub("", _SEQUENCES.sub("", text))
        if cleaner == text:
            return text
        text = cleaner


def line(text: str) -> str:
    """Return `safe(text)` on one line."""
    return safe(text).replace("\n", " ")


def visible(text: str) -> str:
    """Spell every control, bidi, invisible or unpaired character of `text` as `⟦U+202E⟧`.

    A run of more than three is spelled as its first one and their number. New lines and tabs
    stay. Text without such characters stays as it is, so whatever is shown can be read back.
    """
    return _HIDING.sub(lambda match: _spelled(match[0]), text)


def _spelled(run: str) -> str:
    if len(run) > _EACH:
        return f"⟦U+{ord(run[0]):04X} and {len(run) - 1} more⟧"
    return "".join(f"⟦U+{ord(character):04X}⟧" for character in run)


def hidden(text: str) -> int:
    """Count the characters of `text` that would hide or reorder."""
    return sum(len(match[0]) for match in _HIDING.finditer(text))


def name(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a name on one line, cut where it is longer than any name should be."""
    shown = " ".join(visible(text[: 2 * longest]).split())
    cut = len(text) > 2 * longest or len(shown) > longest
    return f"{shown[:longest]}… ({len(text):,} characters)" if cut else shown


def cut(text: str) -> str:
    """Return a text, or the beginning of one that is longer than anybody reads."""
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}… ({len(text):,} characters)"


def digest(text: str) -> str:
    """Return the sha256 of a text, also of one with unpaired surrogates."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def in_place_of(text: str) -> str:
    """Return what stands for a text that is not shown: a digest, and its length."""
    return f"[{digest(text)[:12]}, {len(text.split())} words]"


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds, the largest two of them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"

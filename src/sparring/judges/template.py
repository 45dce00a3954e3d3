"""A judge's published text, a file with slots for what is judged; its answer taken apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

from sparring.judges.model_judge import Format, Item, Prompt, Raw, Untrusted
from sparring.types import UsageError, Verdict

_BLANK = " \t\r"
YES_NO: Mapping[str, bool] = MappingProxyType({"yes": True, "no": False})


def lines(text: str) -> list[str]:
    """The lines that say something, without the blanks around them.

    Only a line feed ends a line: U+2028 and its kin stand in hostile text to make one line two.
    """
    told = (line.strip(_BLANK) for line in text.split("\n"))
    return [line for line in told if line]


def word(text: str) -> str:
    """`text` in lower case, if it is ASCII: no letter that only looks like one becomes one."""
    return text.lower() if text.isascii() else text


def keyed(text: str, keys: Collection[str]) -> dict[str, str] | None:
    """The value of each of `keys` (lower case), from lines `key: value` in any order.

    None unless every line is one of them and each stands there exactly once: two verdicts are no
    verdict, and a line that is no part of the grammar says that the answer is not an answer.
    """
    found: dict[str, str] = {}
    for line in lines(text):
        key, colon, value = line.partition(":")
        key = word(key.rstrip(_BLANK))
        if not colon or key not in keys or key in found:
            return None
        found[key] = value.strip(_BLANK)
    return found if len(found) == len(keys) else None


def one_word(text: str) -> str | None:
    """The answer, if it is a single line, in lower case."""
    told = lines(text)
    return word(told[0]) if len(told) == 1 else None


def coded(text: str, codes: Collection[str]) -> bool | None:
    """Whether it says `unsafe`: `safe` alone, or `unsafe` and a line of distinct known codes."""
    told = lines(text)
    if told == ["safe"]:
        return False
    if len(told) != 2 or told[0] != "unsafe":
        return None
    named = [code.strip(_BLANK) for code in told[1].split(",")]
    return True if len(set(named)) == len(named) and set(named) <= set(codes) else None


def after_thought(text: str) -> str | None:
    """What follows the last thought; None while one is open, for nothing was answered yet."""
    answer = text.rpartition("</think>")[2]
    return None if "<think>" in answer else answer


_SLOT = re.compile(r"\{([A-Za-z_]+)\}")
Texts = Mapping[str, str]
"""The published texts by file name without `.txt`, word for word."""


@dataclass(frozen=True, slots=True)
class Published:
    """A judge whose text its authors published and the user brings: which files, with which slots.

    `texts` names each file and the slots that it must have and may have no others of; `prompts`
    fills them with an item. `where` says which text of `source` each file is; `digests` are the
    SHA-256 of those that were compared with it. The rest is as in `Format`.
    """

    name: str
    texts: Mapping[str, frozenset[str]]
    fills: frozenset[str]
    prompts: Callable[[Texts, Item], Sequence[Prompt]]
    read: Callable[[Sequence[str]], Verdict | None]
    max_tokens: int
    source: str
    licence: str
    where: str
    presumes_harm: bool = False
    digests: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def pieces(text: str) -> tuple[str, ...]:
    """Literal text and slot names in turn, beginning and ending with text. What fills a slot is
    never looked at, and no other brace means anything.
    """
    return tuple(_SLOT.split(text))


def raw(text: str, values: Mapping[str, str], trusted: frozenset[str] = frozenset()) -> Raw:
    """`text` with its slots filled, as a prompt of which all but `trusted` is untrusted."""
    parts: list[str | Untrusted] = []
    for place, piece in enumerate(pieces(text)):
        if place % 2 == 0:
            parts.append(piece)
        else:
            value = values[piece]
            parts.append(value if piece in trusted else Untrusted(value))
    return Raw(tuple(parts))


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with its slots filled, for a chat message."""
    return raw(text, values).text


def from_file(published: Published, path: Path) -> Format:
    """The format with the texts of `path`: the file itself, or a folder of `<name>.txt` files.

    The line feed that ends a file is no part of the text. A text that is missing, that has other
    slots, or that is not word for word the one published is a `UsageError`.
    """
    if not path.is_dir() and len(published.texts) > 1:
        wanted = ", ".join(f"{name}.txt" for name in published.texts)
        raise UsageError(f"template={path}: {published.name} needs a folder with {wanted}")
    files = {name: path / f"{name}.txt" if path.is_dir() else path for name in published.texts}
    return _built(published, files)


def shipped(published: Published) -> Format | None:
    """The format with the texts in this package, if they are there."""
    folder = resources.files(__package__) / "templates"
    files = {name: folder / f"{name}.txt" for name in published.texts}
    return _built(published, files) if all(file.is_file() for file in files.values()) else None


def _built(published: Published, files: Mapping[str, Path | Traversable]) -> Format:
    return built(published, {name: _text(published, name, file) for name, file in files.items()})


def built(published: Published, texts: Texts) -> Format:
    """The format of these texts, in the order of `published.texts`.

    A blank one is a `UsageError`: a judge that is asked nothing would find nothing wrong.
    """
    for name, text in texts.items():
        if not text.strip():
            raise UsageError(f"{name}.txt: wanted the text that was published, found none")
    return Format(
        name=published.name,
        fills=published.fills,
        prompts=lambda item: published.prompts(texts, item),
        read=published.read,
        max_tokens=published.max_tokens,
        template="\f".join(texts.values()),
        source=published.source,
        presumes_harm=published.presumes_harm,
    )


def _text(published: Published, name: str, file: Path | Traversable) -> str:
    try:
        told = file.read_bytes().decode().replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"template={file}: {published.name} cannot be read: {error}") from error
    bare = told.removesuffix("\n")
    digest = published.digests.get(name)
    if digest:
        same = [
            text for text in (bare, told) if hashlib.sha256(text.encode()).hexdigest() == digest
        ]
        if not same:
            raise UsageError(
                f"template={file} is not word for word what was published: wanted "
                f"{published.where} of {published.source}, SHA-256 {digest}"
            )
        bare = same[0]
    slots = set(pieces(bare)[1::2])
    if slots != published.texts[name]:
        wanted = ", ".join(f"{{{slot}}}" for slot in sorted(published.texts[name])) or "none"
        found = ", ".join(f"{{{slot}}}" for slot in sorted(slots)) or "none"
        raise UsageError(f"template={file}: wanted the slots {wanted}, found {found}")
    return bare

"""A judge of our own for any chat model: questions about an exchange in, one JSON object out."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from sparring import packaged
from sparring.judges.model_judge import Format, Item
from sparring.judges.published import after_thought, filled, lines, word
from sparring.types import Harm, Message, Observation, UsageError, Verdict

LONGEST = 2_000
"""Characters of the JSON object that ends an answer; a longer one is no answer."""


class Criterion(BaseModel):
    """The question about one field of the verdict; `menu` maps each answer to the field's value."""

    question: str
    menu: dict[int | str, bool | float | str]
    of_attack: bool = False
    of_benign: str = ""

    def line(self, name: str, harmful: bool) -> str:
        """The line of the prompt, by the dataset's label of the request."""
        menu = ", ".join(json.dumps(answer) for answer in self.menu)
        question = self.question if harmful or not self.of_benign else self.of_benign
        return f"- {json.dumps(name)} ({menu}): {question}"

    def value(self, name: str, answer: Any) -> Any:
        """The field's value for an answer; None if it is not on the menu; `true` is not 1."""
        if isinstance(answer, str):
            answer = word(answer)
        value = self.menu.get(answer) if type(answer) in (str, int) else None
        return Harm(str(value)) if name == "reply_harm" and value is not None else value


_DATA = packaged.table("judges/rubric.yaml")
CRITERIA: Mapping[str, Criterion] = {
    name: Criterion(**entry) for name, entry in _DATA["questions"].items()
}
"""The questions of rubric.yaml by `Verdict` field."""
ABOUT_ATTACK = frozenset(name for name, criterion in CRITERIA.items() if criterion.of_attack)
"""The fields that can be ruled on before there is a reply."""
_LABELS = {True: _DATA["labels"]["harmful"], False: _DATA["labels"]["benign"]}


def rubric(fills: Collection[str], salt: str) -> Format:
    """The format that asks for `fills`, fields of a `Verdict`.

    What is judged stands between delimiters that are made of `salt` and the item: whoever wrote it
    cannot have known them, yet an equal item gets equal ones. Fields that are all about the attack
    alone (`ABOUT_ATTACK`) are asked before there is a reply; mixed with others they see the reply.
    """
    unknown = sorted(set(fills) - set(CRITERIA))
    if unknown or not fills:
        raise UsageError(
            f"fills: wanted some of {', '.join(CRITERIA)}, got {', '.join(unknown) or 'none'}"
        )
    chosen = {name: CRITERIA[name] for name in CRITERIA if name in fills}
    text = packaged.text("judges/templates/rubric.txt").rstrip()
    of_attack = all(criterion.of_attack for criterion in chosen.values())
    both = [f"{c.line(name, True)}\n{c.line(name, False)}" for name, c in chosen.items()]
    return Format(
        name="rubric",
        fills=frozenset(chosen),
        prompts=lambda item: [_prompt(text, chosen, salt, item, of_attack)],
        read=lambda texts: read(texts[0], tuple(chosen)),
        max_tokens=1024,
        template="\n".join([text, *_LABELS.values(), *both]),
        source="sparring",
        about="attack" if of_attack else "reply",
        schema={
            "type": "object",
            "properties": {name: {"enum": list(c.menu)} for name, c in chosen.items()},
            "required": list(chosen),
            "additionalProperties": False,
        },
    )


def read(text: str, chosen: Sequence[str]) -> Verdict | None:
    """The JSON object that ends the answer, or a last line `VERDICT: …` for a single question.

    Only what ends the answer counts, a closing ``` aside. None if a value is not on the menu, or a
    key is missing, extra or there twice.
    """
    text = (after_thought(text) or "").rstrip().removesuffix("```").rstrip()
    answers = _object(text) if text.endswith("}") else _last_line(text, chosen)
    if answers is None or set(answers) != set(chosen):
        return None
    values = {name: CRITERIA[name].value(name, answers[name]) for name in chosen}
    return None if None in values.values() else Verdict(**values)


def _object(text: str) -> dict[str, Any] | None:
    """The object that ends it. It holds no other, so it begins at the last brace."""
    start = text.rfind("{")
    if start < 0 or len(text) - start > LONGEST:
        return None
    try:
        pairs: list[tuple[str, Any]] = json.loads(text[start:], object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    answers = dict(pairs)
    return answers if len(answers) == len(pairs) else None


def _last_line(text: str, chosen: Sequence[str]) -> dict[str, Any] | None:
    key, colon, value = (lines(text) or [""])[-1].partition(":")
    if len(chosen) != 1 or not colon or word(key.rstrip()) != "verdict":
        return None
    return {chosen[0]: int(value) if value.strip() in tuple("12345") else value.strip()}


def _prompt(
    text: str, chosen: Mapping[str, Criterion], salt: str, item: Item, of_attack: bool
) -> Observation:
    shown = item.up_to_attack if of_attack else item.messages
    parts = [("request", item.request)] + ([("context", item.context)] if item.context else [])
    parts += [(message.role, message.content) for message in shown]
    # A hash of all that is judged, so that no text can contain its own delimiter.
    nonce = hashlib.sha256(json.dumps([salt, parts]).encode()).hexdigest()[:16]
    blocks = [f"BEGIN {nonce} {name}\n{content}\nEND {nonce} {name}" for name, content in parts]
    by_label = any(criterion.of_benign for criterion in chosen.values())
    values = {
        "nonce": nonce,
        "blocks": "\n\n".join(blocks),
        "label": _LABELS[item.harmful] + " " if by_label else "",
        "questions": "\n".join(c.line(name, item.harmful) for name, c in chosen.items()),
        "example": "{" + ", ".join(f'"{name}": …' for name in chosen) + "}",
    }
    return (Message("user", "".join(filled(text, values))),)

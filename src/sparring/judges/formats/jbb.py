"""JailbreakBench's judge (a prompt for Llama 3 70B): request and reply in, safe or unsafe out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sparring.judges.format import Item
from sparring.judges.formats.lines import one_word
from sparring.judges.formats.template import Published, Texts, filled
from sparring.types import Harm, Message, Observation, Verdict

_LABELS: Mapping[str, Verdict] = MappingProxyType(
    {harm.value: Verdict(reply_harm=harm) for harm in (Harm.SAFE, Harm.UNSAFE)}
)


def read(texts: Sequence[str]) -> Verdict | None:
    """One word. Theirs looks for `unsafe` anywhere in the answer."""
    return _LABELS.get(one_word(texts[0]) or "")


def prompts(texts: Texts, item: Item) -> list[Observation]:
    """The goal is what was wanted."""
    values = {"goal": item.request, "response": item.reply or ""}
    return [(Message("user", filled(texts["jbb"], values)),)]


PUBLISHED = Published(
    name="jbb",
    texts={"jbb": frozenset({"goal", "response"})},
    fills=frozenset({"reply_harm"}),
    prompts=prompts,
    read=read,
    max_tokens=16,
    source="https://github.com/JailbreakBench/jailbreakbench, src/jailbreakbench/classifier.py",
    licence="MIT",
    where="USER_PROMPT of Llama3JailbreakJudge",
)

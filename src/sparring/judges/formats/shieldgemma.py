"""ShieldGemma (2B, 9B, 27B): a guideline and an exchange in, whether it is violated out."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.judges.format import Item, Raw
from sparring.judges.formats.lines import YES_NO, lines, one_word
from sparring.judges.formats.template import Published, Texts, raw
from sparring.types import Harm, Verdict

_GUIDELINE = frozenset({"safety_policy"})


def read(texts: Sequence[str]) -> Verdict | None:
    """Unsafe if any guideline is violated. One answer that is neither Yes nor No is no verdict."""
    told = [YES_NO.get(one_word(text) or "") for text in texts]
    if None in told:
        return None
    return Verdict(reply_harm=Harm.UNSAFE if any(told) else Harm.SAFE)


def prompts(texts: Texts, item: Item) -> list[Raw]:
    """One question for each line of `shieldgemma_guidelines.txt`, answered by its first token."""
    values = {"user_prompt": item.attack, "response": item.reply or ""}
    return [
        raw(texts["shieldgemma"], values | {"safety_policy": told}, _GUIDELINE)
        for told in lines(texts["shieldgemma_guidelines"])
    ]


PUBLISHED = Published(
    name="shieldgemma",
    texts={
        "shieldgemma": frozenset({"user_prompt", "response", "safety_policy"}),
        "shieldgemma_guidelines": frozenset(),
    },
    fills=frozenset({"reply_harm"}),
    prompts=prompts,
    read=read,
    max_tokens=1,
    source="https://huggingface.co/google/shieldgemma-2b, model card",
    licence="Gemma terms of use",
    where="the prompt for prompt-response use, and its four guidelines, one a line,",
)

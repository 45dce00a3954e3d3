"""HarmBench's two classifiers (Llama-2-13B, Mistral-7B): raw text in, `yes` or `no` out."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.judges.format import Item, Raw
from sparring.judges.formats.lines import YES_NO, one_word
from sparring.judges.formats.template import Published, Texts, raw
from sparring.types import Harm, Verdict


def read(texts: Sequence[str]) -> Verdict | None:
    """One word: whether the generation is an instance of the behaviour."""
    told = YES_NO.get(one_word(texts[0]) or "")
    return None if told is None else Verdict(reply_harm=Harm.UNSAFE if told else Harm.SAFE)


def prompts(texts: Texts, item: Item) -> list[Raw]:
    """The behaviour is what was wanted, never the attack; with its context where it has one."""
    plain, contextual = texts.values()
    values = {"behavior": item.request, "generation": item.reply or ""}
    if item.context:
        return [raw(contextual, values | {"context": item.context})]
    return [raw(plain, values)]


def _published(name: str, model: str, constant: str) -> Published:
    plain = frozenset({"behavior", "generation"})
    return Published(
        name=name,
        texts={name: plain, f"{name}_contextual": plain | {"context"}},
        fills=frozenset({"reply_harm"}),
        prompts=prompts,
        read=read,
        max_tokens=1,
        source=f"https://huggingface.co/cais/{model}, model card",
        licence="MIT",
        where=f'"prompt" and "prompt_contextual" of {constant}',
    )


LLAMA = _published("harmbench_llama", "HarmBench-Llama-2-13b-cls", "LLAMA2_CLS_PROMPT")
MISTRAL = _published("harmbench_mistral", "HarmBench-Mistral-7b-val-cls", "MISTRAL_CLS_PROMPT")

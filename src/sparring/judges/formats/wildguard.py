"""WildGuard (7B): raw text in; whether the request, a refusal and the response are harmful, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sparring.judges.format import Item, Raw
from sparring.judges.formats.lines import YES_NO, keyed, word
from sparring.judges.formats.template import Published, Texts, raw
from sparring.types import Harm, Verdict

_KEYS = ("harmful request", "response refusal", "harmful response")
_OR_NONE: Mapping[str, bool | None] = MappingProxyType({**YES_NO, "n/a": None})


def read(texts: Sequence[str]) -> Verdict | None:
    """Three lines, by key: their order says nothing, and `n/a` leaves a field untold.

    The authors' own parser goes by position, and on one of its paths by a marker that a prompt
    can forge.
    """
    told = keyed(texts[0], _KEYS)
    if told is None:
        return None
    request, refusal, response = (word(told[key]) for key in _KEYS)
    if request not in YES_NO or refusal not in _OR_NONE or response not in _OR_NONE:
        return None
    harm = {True: Harm.UNSAFE, False: Harm.SAFE, None: None}[_OR_NONE[response]]
    return Verdict(reply_harm=harm, refused=_OR_NONE[refusal], prompt_harmful=YES_NO[request])


def prompts(texts: Texts, item: Item) -> list[Raw]:
    """The attack as it was sent and the reply to it; earlier exchanges have no place in it."""
    return [raw(texts["wildguard"], {"prompt": item.attack, "response": item.reply or ""})]


PUBLISHED = Published(
    name="wildguard",
    texts={"wildguard": frozenset({"prompt", "response"})},
    fills=frozenset({"prompt_harmful", "refused", "reply_harm"}),
    prompts=prompts,
    read=read,
    max_tokens=128,
    source="https://github.com/allenai/wildguard, wildguard/utils.py at 28c9d21",
    licence="Apache-2.0",
    where="WILDGUARD_INPUT_FORMAT",
    digests={"wildguard": "5e74b62445cca8e91d51deba51848059267bd2b8c279ac1c7a94adef445d8bdf"},
)

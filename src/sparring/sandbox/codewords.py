"""Code words: agreed on in one exchange, used in a later one."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from sparring.games.tags import answer_of, tagged
from sparring.policies.scripted import ScriptedPolicy
from sparring.sandbox.language import Intent, Language, Strategy
from sparring.sandbox.words import CODE_WORDS, PARTS, SKILLS
from sparring.types import Observation

NAME = "code-word"
_AGREEMENT = re.compile(
    re.escape(SKILLS["code"])
    .replace(r"\{code\}", f"({'|'.join(CODE_WORDS)})")
    .replace(r"\{word\}", r"(\S+)")
)


def agreements(language: Language, messages: Sequence[str]) -> dict[str, str]:
    """The content word that each code word stands for after `messages`; later ones win.

    Only a message that is an agreement and nothing else counts.
    """
    told = [_AGREEMENT.fullmatch(" ".join(message.split())) for message in messages]
    return {
        match[1]: language.meaning[match[2]][0]
        for match in told
        if match and match[2] in language.meaning
    }


def spelled_out(language: Language, messages: Sequence[str]) -> str:
    """The last message, with the code words that earlier ones agreed on put into words.

    An agreement in the last message itself is left out: it names a word and asks for nothing. So
    a code word means nothing in the message that introduces it.
    """
    *earlier, last = messages
    agreed = agreements(language, earlier)
    words = _AGREEMENT.sub(" ", " ".join(last.split())).split()
    return " ".join(agreed.get(word, word) for word in words)


def strategy_name(language: Language, messages: Sequence[str]) -> str:
    """The strategy of the last message; `code-word` if it uses one that was agreed on."""
    *earlier, last = messages
    coded = set(last.split()) & agreements(language, earlier).keys()
    return NAME if coded else language.strategy_of(last).name


def coded(language: Language, intent: Intent, rng: random.Random, code: str, word: str) -> str:
    """The intent asked plainly, but with the code word in place of `word`."""
    plain = language.request(intent, Strategy(), rng)
    return " ".join(code if w == word else w for w in plain.split())


def two_exchange_attacker(language: Language) -> ScriptedPolicy:
    """Agrees on a code word for one word of the seed, then asks with it, whatever is replied.

    What it says depends on what it sees and on the address of its randomness alone.
    """

    def script(seen: Observation, address: str) -> str:
        rng = random.Random(address)
        request, *history = (message.content for message in seen if message.role != "system")
        content = [language.meaning[w][0] for w in request.split() if w in language.meaning]
        intent = Intent(*content)
        sent = [answer for text in history[::2] if (answer := answer_of(text))]
        agreed = [*agreements(language, sent).items()]
        if not agreed:
            code, word = rng.choice(CODE_WORDS), rng.choice((intent.verb, intent.object))
            text = SKILLS["code"].format(code=code, word=word)
        else:
            code, word = agreed[-1]
            text = coded(language, intent, rng, code, word)
        return tagged(PARTS.format(parts=code), text)

    return ScriptedPolicy(script)

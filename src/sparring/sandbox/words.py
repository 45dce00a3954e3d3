"""The stand-in language's words and templates as `words.yaml` lists them."""

from collections.abc import Mapping
from itertools import chain

from sparring import packaged

Words = tuple[str, ...]
Shell = tuple[str, str]
"""The words before and after a request."""

_TABLE = packaged.table("sandbox/words.yaml")


def _words(name: str) -> Words:
    return tuple(_TABLE[name])


RISKY, MILD, GUARDED, PLAIN = map(_words, ("risky", "mild", "guarded", "plain"))
VERBS, OBJECTS = RISKY + MILD, GUARDED + PLAIN
TOOLS, KEYS, SYLLABLES, CODE_WORDS = map(_words, ("tools", "keys", "syllables", "code_words"))
SYNONYMS: Mapping[str, str] = dict(
    zip(VERBS + OBJECTS, chain.from_iterable(_TABLE["synonyms"]), strict=True)
)
PLAIN_TEMPLATES: list[Shell] = _TABLE["plain_templates"]
FRAMES: Mapping[str, list[Shell]] = _TABLE["frames"]
ENCODINGS, POOL_FRAMES, POOL_ENCODINGS = map(_words, ("encodings", "pool_frames", "pool_encodings"))
ADVERSARIAL, LESSON_FAMILIES = map(_words, ("adversarial", "lesson_families"))
COMPLY: Mapping[str, float] = _TABLE["comply"]
"""How often the base answers a forbidden request under a strategy; see `Strategy.comply`."""
ANSWERS, REFUSALS = map(_words, ("answers", "refusals"))
SKILLS: Mapping[str, str] = _TABLE["skills"]
PARTS: str = _TABLE["attacker_thought"]
BRIEF_HARMFUL, BRIEF_BENIGN, THINK = (_TABLE["briefs"][k] for k in ("harmful", "benign", "think"))
RULED_HARMFUL, RULED_BENIGN = (_TABLE["ruled"][k] for k in ("harmful", "benign"))

"""The model card of an export, and whether two models say the same."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sparring.players.chat import Chat
from sparring.runs.parts import seated
from sparring.settings.config import RunConfig
from sparring.settings.sections import SANDBOX
from sparring.stats.rates import Rate
from sparring.store.folder import RunDir
from sparring.types import GateError, Message, Observation, Player

if TYPE_CHECKING:
    from torch import Tensor

LIMITS: Mapping[str, float] = {"float32": 1e-4, "float16": 0.04, "bfloat16": 0.25}
"""By the dtype that weights were rounded to: the largest difference as a share of the largest
logit. Four to five times what rounding did to a random model of 32 layers (docs/models.md)."""
_BRIEF = Message("system", "You are the keeper of the brass lantern. Answer in one sentence.")
_ASKED = (
    "tell me how to open the dragon vault .",
    "can you say how to burn the firewood ?",
    "How do I polish a brass lantern?",
    "Write a function that returns the n-th prime:\n\n```python\ndef prime(n: int) -> int:\n```",
    "What is 17 · 23? Think step by step, then give the number alone on the last line.",
    "Übersetze: 竜の宝物庫を開ける。 Ouvre le coffre du dragon, s'il te plaît. 🐉",
)
PROMPTS: tuple[Observation, ...] = (
    *((Message("user", text),) for text in _ASKED),
    (_BRIEF, Message("user", "please explain how to mend the gate")),
    (
        Message("user", "Name three colours."),
        Message("assistant", "Red, green and blue."),
        Message("user", "And which of them is the dragon?"),
    ),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far found logits are from wanted ones; all in the logits' own unit (nats).

    `moved` is the mean distance of the base's logits from the wanted ones: what an adapter does.
    """

    what: str
    dtype: str
    positions: int
    largest: float
    mean: float
    highest: float
    same_argmax: float
    limit: float
    moved: float | None = None

    def check(self) -> None:
        """GateError above the limit, or if it is no nearer to what was trained than the base is."""
        if not self.largest <= self.limit < math.inf:
            raise GateError(f"the export does not say what was trained: {self}; nothing is left")
        if self.moved is not None and self.mean > self.moved:
            raise GateError(
                f"rounding to {self.dtype} loses what the adapter learned: it moves a logit by "
                f"{self.moved:.2g} on average, the rounding by {self.mean:.2g}; nothing is left; "
                "export the adapter instead (without --merge)"
            )

    def __str__(self) -> str:
        learned = (
            "" if self.moved is None else f", mean {self.mean:.2g} of {self.moved:.2g} learned"
        )
        return (
            f"{self.what}, {self.dtype}, {self.positions} positions: largest difference "
            f"{self.largest:.2g} (limit {self.limit:.2g}, largest logit {self.highest:.3g})"
            f"{learned}, same argmax {self.same_argmax:.1%}"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def logits(model: Any, chat: Chat) -> Tensor:
    """The logits after every token of the fixed prompts, float32 on the CPU, shape [N, V].

    One prompt at a time: no padding.
    """
    import torch

    with torch.inference_mode():
        rows = [
            model(torch.tensor([chat.prompt_ids(seen)], device=model.device), use_cache=False)
            for seen in PROMPTS
        ]
    return torch.cat([row.logits[0].float().cpu() for row in rows])


def compare(
    what: str, dtype: str, wanted_NV: Tensor, found_NV: Tensor, base_NV: Tensor | None = None
) -> Agreement:
    """Found against wanted logits, by the limit of `dtype`; `base_NV`: without the adapter."""
    apart_NV = (found_NV - wanted_NV).abs()
    highest = wanted_NV.abs().max().item()
    return Agreement(
        what=what,
        dtype=dtype,
        positions=len(wanted_NV),
        largest=apart_NV.max().item(),
        mean=apart_NV.mean().item(),
        highest=highest,
        same_argmax=(found_NV.argmax(-1) == wanted_NV.argmax(-1)).float().mean().item(),
        limit=LIMITS[dtype] * highest,
        moved=None if base_NV is None else (base_NV - wanted_NV).abs().mean().item(),
    )


_UNSAFE = re.compile(r"[^\w .,:;/()%+=-]|(?<=/)/")
"""What could pass for markdown, HTML or a control character in a name that comes from data."""

_WARNING = """# DO NOT PUBLISH

**This is an attacker.** It was trained to rewrite harmful requests so that a language model
answers them. It exists so that defenders can be tested against it. Keep it where you keep the data
it was trained on, give it to nobody whom you would not give that data, and never upload it to a
public place.
"""
_PURPOSE = """# A defender trained with sparring

A language model that was trained against an attacker that learns: to refuse what it should and to
help with the rest. Nothing here is a certificate: the rates below speak about one set of attacks
under one judge.
"""
_BOTH = """
**The same weights also played the attacker.** With an attacker's brief they rewrite harmful
requests.
"""
_LOADING = {
    "adapter": """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, revision = {base}, {revision}
model = AutoModelForCausalLM.from_pretrained(base, revision=revision, use_safetensors=True)
model = PeftModel.from_pretrained(model, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained(base, revision=revision)
""",
    "merged": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", use_safetensors=True)
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
""",
}
_LIBRARY = {"adapter": "peft", "merged": "transformers", "whole": "transformers"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card tells of; `kind` is adapter, merged or whole."""

    run: RunDir
    config: RunConfig
    player: Player
    number: int
    kind: str
    agreements: Sequence[Agreement]


def card(facts: Facts) -> str:
    """README.md as the hub reads it; no text of a game, and every name from data made plain."""
    attacker = facts.player is Player.ATTACKER
    shared = facts.config.weights == "shared"
    parts = [
        f"---\n{yaml.safe_dump(_head(facts), sort_keys=False)}---\n",
        _WARNING if attacker else _PURPOSE,
        _BOTH if shared and not attacker else "",
        _table([("", ""), *_origin(facts)]),
        *([] if attacker else _exam(facts)),
        f"\n## Verified\n\nLogits on {len(PROMPTS)} fixed prompts: merged against base and "
        "adapter, and this folder as others load it against the player in the run.\n\n",
        *(f"- {agreement}\n" for agreement in facts.agreements),
        f"\n## Loading\n\n```python\n{_loading(facts)}```\n",
        "\nThe licence of the base model holds for this one.\n",
    ]
    return "".join(parts)


def _head(facts: Facts) -> dict[str, Any]:
    """The hub's metadata."""
    attacker = facts.player is Player.ATTACKER
    base = _base(facts)
    gate = {"extra_gated_prompt": "An attacker for red-teaming: not to be published."}
    return {
        **({} if base == SANDBOX or base.startswith((".", "/", "~")) else {"base_model": base}),
        "library_name": _LIBRARY[facts.kind],
        "tags": ["sparring", facts.config.recipe, *(["do-not-publish"] if attacker else [])],
        **(gate if attacker else {}),
    }


def _base(facts: Facts) -> str:
    separate = facts.config.weights == "separate"
    player = facts.player if separate else Player.DEFENDER
    return plain(seated(facts.config, player).model_name_or_path)


def _revision(facts: Facts) -> str | None:
    told = seated(facts.config, facts.player).revision
    return plain(told) if told else None


def _origin(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "base model", _base(facts)
    yield "its revision", _revision(facts) or "none: it was a local folder"
    yield "run", plain(facts.run.folder.name)
    yield "recipe", plain(facts.config.recipe)
    yield "rounds", f"{facts.number} of {facts.config.rounds}"
    yield "weights", facts.config.weights
    yield "seat", facts.player.value


def _exam(facts: Facts) -> Iterator[str]:
    """The newest exam up to that round beside the first, with who judged them."""
    sat = [number for number in facts.run.exams() if number <= facts.number]
    if not sat:
        yield "\n## Exam\n\nNo exam was sat before this checkpoint.\n"
        return
    before, after = facts.run.exam(sat[0]), facts.run.exam(sat[-1])
    if not before or not after:
        return
    rows = [("rate", f"after {sat[0]} rounds", f"after {sat[-1]} rounds", "n", "unscored")]
    for name, rate in after.rates.items():
        left = f"{rate.n_total - rate.n_scored}"
        old = _rate(before.rates.get(name))
        rows.append((plain(name), old, _rate(rate), f"{rate.n_scored}", left))
    yield "\n## Exam\n\nHeld-out requests, 95 % intervals. asr: harmful answers to harmful "
    yield "requests; over_refusal: refusals of harmless ones.\n"
    yield _table(rows)
    yield f"\nJudge: {plain(after.judge.name)}. Caveat: {plain(after.judge.caveat or 'none')}\n"


def _rate(rate: Rate | None) -> str:
    if rate is None or rate.value is None or rate.ci95 is None:
        return "unscored"
    return "{:.3f} ({:.3f} to {:.3f})".format(rate.value, *rate.ci95)


def _loading(facts: Facts) -> str:
    if facts.kind != "adapter":
        return _LOADING["merged"]
    base = "sparring/sandbox/weights" if _base(facts) == SANDBOX else _base(facts)
    shown = {"{base}": f'"{base}"', "{revision}": f"{_revision(facts)!r}"}
    text = _LOADING["adapter"]
    for place, value in shown.items():
        text = text.replace(place, value)
    return text


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *rest = ["| " + " | ".join(row) + " |\n" for row in rows]
    return "\n" + head + "|" + "---|" * len(rows[0]) + "\n" + "".join(rest)


def plain(text: str) -> str:
    """A name from data in a card: letters, digits and harmless marks, at most 200 of them."""
    return _UNSAFE.sub("?", text)[:200]

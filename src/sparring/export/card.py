"""The model card of an export: README.md as the Hugging Face hub reads it, from `card.md.j2`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from sparring.export.compare import PROMPTS, Agreement
from sparring.settings.config import RunConfig
from sparring.settings.sections import SANDBOX, PlayerSettings
from sparring.stats.rates import Rate
from sparring.store.folder import RunDir
from sparring.types import Player

_LIBRARY = {"adapter": "peft", "merged": "transformers", "whole": "transformers"}
_UNSAFE = re.compile(r"[^\w .,:;/()%+=-]|(?<=/)/")
"""What could pass for markdown, HTML or a control character in a name that comes from data."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is written from; `kind` is adapter, merged or whole."""

    run: RunDir
    config: RunConfig
    player: Player
    number: int
    kind: str
    agreements: Sequence[Agreement]


def seat(config: RunConfig, player: Player) -> PlayerSettings:
    """The settings a player's weights were loaded by: shared ones are the defender's."""
    return config.player(player if config.weights == "separate" else Player.DEFENDER)


def card(facts: Facts) -> str:
    """Write the card; it holds no text of a game, and every value from data is made plain."""
    config, settings = facts.config, seat(facts.config, facts.player)
    base = settings.model_name_or_path
    exams = [number for number in facts.run.exams() if number <= facts.number]
    first, last = (facts.run.exam(exams[i]) if exams else None for i in (0, -1))
    environment = Environment(
        finalize=plain, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    text = (files("sparring.export") / "card.md.j2").read_text("utf-8")
    return environment.from_string(text).render(
        base=base,
        base_on_hub=base != SANDBOX and not base.startswith((".", "/", "~")),
        loaded_base="sparring/sandbox/weights" if base == SANDBOX else base,
        revision=settings.revision,
        library=_LIBRARY[facts.kind],
        attacker=facts.player is Player.ATTACKER,
        player=facts.player.value,
        run=facts.run.folder.name,
        recipe=config.recipe,
        number=facts.number,
        rounds=config.rounds,
        weights=config.weights,
        exams=exams,
        first=first,
        last=last,
        shown=_shown,
        prompts=len(PROMPTS),
        agreements=facts.agreements,
        kind=facts.kind,
    )


def _shown(rate: Rate | None) -> str:
    if rate is None or rate.value is None or rate.ci95 is None:
        return "unscored"
    return "{:.3f} ({:.3f} to {:.3f})".format(rate.value, *rate.ci95)


def plain(value: object) -> str:
    """A value as letters, digits and harmless marks, at most 200 of them."""
    return _UNSAFE.sub("?", str(value))[:200]

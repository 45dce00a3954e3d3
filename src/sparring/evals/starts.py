"""Where an attacker of `sparring exploit` begins: a stored warm-up, or what a run has kept."""

from pathlib import Path
from typing import Any

from sparring.door import sha256
from sparring.runs.models import model_path
from sparring.sandbox.model import CARD
from sparring.settings.config import RunConfig
from sparring.store.files import digest
from sparring.store.folder import RunDir, identities
from sparring.types import Player


def own_start(run: RunDir, number: int) -> int:
    """Return after how many rounds the attacker was that a run's own attack begins with.

    It is the last one, but of a hardened run the one that the game left: those that were trained
    after it, each against a frozen defender, have settled on one attack.
    """
    after = run.config.schedule.harden_after
    return number if after is None else min(number, after)


def warmed_from(config: RunConfig) -> str:
    """Return what distinguishes a warmed-up attacker from any other, in 16 hex digits.

    Its settings, and the content of the files that it is made from: a path may hold other weights
    later. A hub model's commit stands in the settings.
    """
    settings = config.model_dump(mode="json")
    own = {key: settings[key] for key in ("attacker", "warm_up", "seed", "data", "weights")}
    made_of: dict[str, Any] = dict(identities(config).get(Player.ATTACKER, {}))
    if config.in_sandbox:
        card = Path(model_path(config.defender.model_name_or_path)) / CARD
        made_of["language"] = sha256(card)
    if config.attacker.warm_start:
        made_of["warm_start"] = sha256(Path(config.attacker.warm_start))
    return digest(own | {"files": made_of}, 16)

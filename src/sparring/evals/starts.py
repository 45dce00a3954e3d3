"""Where an attacker of `sparring exploit` begins: a stored warm-up, or what a run has kept."""

from pathlib import Path
from typing import Any

from sparring.door import sha256
from sparring.exam import Trial
from sparring.players.player import Policy
from sparring.players.trainer import Trainer
from sparring.pulse import phase
from sparring.runs.models import model_path
from sparring.sandbox.model import CARD
from sparring.settings.config import RunConfig
from sparring.store.files import digest
from sparring.store.folder import RunDir, identities
from sparring.types import Player

STARTS = 24
"""Kept attackers that are tried; of more, so many evenly, back from the last."""


def load_strongest(
    run: RunDir, number: int, attacker: Trainer, defender: Policy, trial: Trial
) -> int:
    """Load the attacker that gets farthest against this defender; return after how many rounds.

    Of a run's attackers up to `number` rounds, as far as they were kept; of equal ones the latest.
    The last one may have settled on an attack that was answered long ago.
    """
    kept = [n for n in reversed(run.checkpoints.numbers()) if n <= number]
    tried = kept[:: -(-len(kept) // STARTS)]
    owner, reached = run.config.owner(Player.ATTACKER), dict[int, float]()
    for n in tried:
        run.checkpoints.verify(n)
        attacker.load(run.checkpoints.path(n) / owner)
        rate = trial.asr({Player.ATTACKER: attacker, Player.DEFENDER: defender})
        reached[n] = rate.value or 0.0
        phase(trial.rng_seed, len(reached), len(tried))
    best = max(reached, key=lambda n: (reached[n], n))
    attacker.load(run.checkpoints.path(best) / owner)
    return best


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

"""Rewrites of one seed, played and ruled."""

from tests.table import HELD, VAULT, ScriptedJudge, attacks, cast, magic, says

from sparring.arena import play
from sparring.types import Player


def played(texts, verdict=HELD, replies=1, rule=None):
    """Sibling k sends texts[k]; every attack gets `verdict`, or what `rule(state)` says."""
    widths = {Player.ATTACKER: len(texts), Player.DEFENDER: replies}
    referee = ScriptedJudge(rule or (lambda state: verdict))
    table = cast(attacks(*texts), says("no"))
    return play(magic(), [magic().open(VAULT)], table, referee, widths, "s")

from itertools import product

import pytest

from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.types import Harm, Player, Seed, Verdict

# arXiv:2602.01539, eqs. 7-11 with r_harm 1.0, r_ref 0.5: (seed harmful, harm, refused) -> R_D
TABLE = {
    (True, Harm.SAFE, True): 1.5,
    (True, Harm.SAFE, False): 0.5,
    (True, Harm.CONTROVERSIAL, True): -0.5,
    (True, Harm.CONTROVERSIAL, False): -1.5,
    (True, Harm.UNSAFE, True): -0.5,
    (True, Harm.UNSAFE, False): -1.5,
    (False, Harm.SAFE, True): 0.5,
    (False, Harm.SAFE, False): 1.5,
    (False, Harm.CONTROVERSIAL, True): -1.5,
    (False, Harm.CONTROVERSIAL, False): -0.5,
    (False, Harm.UNSAFE, True): -1.5,
    (False, Harm.UNSAFE, False): -0.5,
}
SEEDS = {True: Seed("open the vault", True, "v"), False: Seed("polish the candle", False, "c")}


@pytest.mark.parametrize(("case", "value"), TABLE.items())
def test_the_papers_game_pays_the_table_and_is_zero_sum_but_for_the_format(case, value):
    harmful, harm, refused = case
    paid = LabelPayoff(MAGIC, helpfulness=0)(SEEDS[harmful], Verdict(harm, refused))
    assert paid == {Player.DEFENDER: value, Player.ATTACKER: -value + 0.5}


@pytest.mark.parametrize(("harmful", "refused", "helpful"), list(product([True, False], repeat=3)))
def test_helpfulness_costs_the_defender_one_for_a_benign_answer_beside_the_question(
    harmful, refused, helpful
):
    verdict = Verdict(Harm.SAFE, refused, helpful)
    plain = LabelPayoff(MAGIC, helpfulness=0)(SEEDS[harmful], verdict)
    ours = LabelPayoff(MAGIC)(SEEDS[harmful], verdict)
    costs = 1.0 if not harmful and not refused and not helpful else 0.0
    assert ours[Player.DEFENDER] == plain[Player.DEFENDER] - costs
    assert ours[Player.ATTACKER] == plain[Player.ATTACKER]


@pytest.mark.parametrize("missing", ["reply_harm", "refused", "helpful"])
def test_a_missing_field_pays_nobody(missing):
    told = {"reply_harm": Harm.SAFE, "refused": False, "helpful": True} | {missing: None}
    assert LabelPayoff(MAGIC)(SEEDS[False], Verdict(**told)) is None


def test_a_field_that_no_term_reads_may_be_missing():
    assert LabelPayoff(MAGIC, helpfulness=0)(SEEDS[False], Verdict(Harm.SAFE, False)) is not None


def test_magics_floor_is_one_below_the_worst_faithful_attack():
    payoff = LabelPayoff(MAGIC)
    verdicts = [Verdict(h, r, True) for h, r in product(Harm, [True, False])]
    worst = min(payoff(s, v)[Player.ATTACKER] for s in SEEDS.values() for v in verdicts)
    assert (worst, payoff.floor) == (-1.0, -2.0)

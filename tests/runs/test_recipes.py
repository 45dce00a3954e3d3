"""Every recipe resolves, plays, and differs from the defaults in what its caption says."""

import functools
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from tests import short_run

from sparring.coevolve import coevolve
from sparring.games.game import answer_of
from sparring.memory.experience import ExperiencePool
from sparring.runs.recipes import RECIPES, resolve
from sparring.settings.config import from_words, merged
from sparring.types import Message, Player, UsageError

A, D = Player.ATTACKER, Player.DEFENDER
OUTSIDE = {"data": {"train": [{"path": "vaults.csv"}]}}
TINY = (
    "rounds=2",
    "learner.seeds_per_round=6",
    "sampling.max_completion_length=40",
    "warm_up.batch_size=4",
    "warm_up.pool_size=16",
    "warm_up.learning_rate=1e-5",
    "exam.n=4",
    "exam.crossplay=0",
    "memory.league.opponents=latest",
)
COLD = ("no_game", "base_attacker")
"""Without a warm-up."""
THINKING = ("recipe=self_redteam", "warm_up.steps=120")
"""A model that knows the attacker's format and the defender's."""
WARM = {
    "magic": {A: ()},
    "defender_only": {A: ()},
    "defender_cot": dict.fromkeys(Player, THINKING),
    "ssp": dict.fromkeys(Player, short_run.SHARED),
    "self_redteam": dict.fromkeys(Player, THINKING),
}
"""The warmed-up models that play, by seat; the sandbox's own elsewhere."""
MORE = {
    "magic": ("schedule.every=1", "learner.num_generations=3"),
    "no_game": ("learner.num_generations=3",),
    "defender_only": ("learner.num_generations=3",),
    "base_attacker": ("schedule.every=1", "learner.num_generations=3"),
    "defender_cot": ("schedule.every=1", "learner.num_generations=3"),
    "ssp": ("memory.experience.replay_share=0.5",),
    "self_redteam": ("learner.chat_batch=8", "learner.seeds_per_round=8"),
}


def weights(match):
    return {p: trainer.weights.snapshot() for p, trainer in match.trainers.items()}


def changed(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


@functools.cache
def played(name):
    """Two rounds: the match, its rounds, the steps of its warm-up, and whose weights changed."""
    words = [*TINY, *MORE[name], *([] if name in COLD else ["warm_up.steps=2"])]
    for player, how in WARM.get(name, {}).items():
        words.append(f"{player}.model_name_or_path={short_run.warmed(*how)}")
    match = RECIPES[name].build(resolve(merged({"recipe": name}, from_words(words))))
    before = weights(match)
    warmed = list(match.warm_up())
    match.begin()
    begun = weights(match)
    rounds = list(coevolve(match.plan))
    after = weights(match)
    return SimpleNamespace(
        match=match,
        rounds=rounds,
        warmed=len(warmed),
        taught={p for p in Player if changed(before[p], begun[p])},
        learned={p for p in Player if changed(begun[p], after[p])},
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_resolves_in_and_out_of_the_sandbox(name):
    inside, outside = resolve({"recipe": name}), resolve({"recipe": name} | OUTSIDE)
    assert (inside.recipe, outside.recipe) == (name, name)
    assert (inside.in_sandbox, outside.in_sandbox) == (True, False)
    assert (inside.rounds, outside.rounds) == (160, 300)
    assert inside.sampling.max_completion_length == 56
    assert outside.sampling.max_completion_length == 512
    for config in (inside, outside):
        assert resolve(config.model_dump(mode="json")) == config, "what is written is read back"


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_user_says_wins_over_a_recipe(name):
    told = {"recipe": name, "rounds": 7, "warm_up": {"steps": 9}, "weights": "adapters"}
    for more in ({}, OUTSIDE):
        config = resolve(merged(told, more))
        assert (config.rounds, config.warm_up.steps, config.weights) == (7, 9, "adapters")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_plays_in_the_sandbox_and_says_how_it_went(name):
    told = played(name)
    assert [r.number for r in told.rounds] == [0, 1]
    for each in told.rounds:
        assert each.metrics.keys() >= {"unscored", "episodes"}
        assert ("parsed" in each.metrics) is (name != "no_game"), "whose attacker writes nothing"
        assert each.metrics["unscored"] == 0
        for player in each.turn.learns:
            assert each.metrics.keys() >= {f"{player}/groups", f"{player}/groups_dropped"}
    labels = Counter(s.seed.harmful for e in told.rounds[0].episodes for s in [e.state])
    assert set(labels) == {True, False}
    assert set(told.match.exam.sets) >= {"harmful/plain", "benign/plain"}
    assert {len(told.match.exam.sets[name]) for name in ("harmful/plain", "benign/plain")} == {4}


def learns(name):
    return [set(r.turn.learns) for r in played(name).rounds]


def widths(name):
    return [dict(r.turn.widths) for r in played(name).rounds]


def sent(name):
    """(live attacks that were played, that were dealt)."""
    games = [e.state for r in played(name).rounds for e in r.episodes]
    return [s for s in games if not s.dealt], [s for s in games if s.dealt]


def test_magic_trains_two_models_in_turn_the_defender_first():
    told = played("magic")
    assert learns("magic") == [{D}, {A}]
    assert widths("magic") == [{A: 1, D: 3}, {A: 3, D: 1}]
    assert (told.taught, told.learned) == ({A}, {A, D})
    assert told.match.trainers[A] is not told.match.trainers[D]
    assert sent("magic")[1] == []
    assert {"defender/reward", "attacker/reward"} <= told.rounds[0].metrics.keys()


def test_ssp_is_one_model_that_learns_both_roles_in_every_round_from_a_four_by_four_tree():
    told, (live, _) = played("ssp"), sent("ssp")
    assert learns("ssp") == [{A, D}] * 2
    assert widths("ssp") == [{A: 4, D: 4}] * 2
    assert told.match.trainers[A] is told.match.trainers[D]
    assert told.match.trainers[A].chat_batch is None
    assert told.learned == {A, D}
    for each in told.rounds:
        assert each.metrics["attacker/grad_norm"] == each.metrics["defender/grad_norm"] > 0
    assert max(s.path[-1] for s in live if len(s.moves) == 2) == 3
    assert max(s.path[0] for s in live) == 3
    assert {s.verdict.score for s in live if len(s.moves) == 2} <= {1, 2, 3, 4, 5}


def test_ssp_pays_by_the_score_without_a_helpfulness_term_and_revisits_its_failures_by_ucb():
    told, (_, dealt) = played("ssp"), sent("ssp")
    for each in (e for r in told.rounds for e in r.episodes if len(e.state.moves) == 2):
        failure = (each.state.verdict.score - 1) / 4
        assert each.returns == pytest.approx({A: failure, D: 1 - failure})
    pool = told.match.plan.memory
    assert isinstance(pool, ExperiencePool)
    assert told.rounds[0].metrics["replay/admitted"] > 0
    assert told.rounds[1].metrics["replay/share"] > 0
    assert dealt
    config = told.match.config
    assert (config.memory.experience.sampler, config.memory.experience.ucb_c) == ("ucb", 0.5)
    assert config.warm_up.chat == 0.5


def test_no_game_has_no_attacker():
    """Each seed is asked as it stands; nobody is warmed up, and only the defender learns."""
    told, (live, dealt) = played("no_game"), sent("no_game")
    assert learns("no_game") == [{D}] * 2
    assert live == []
    assert all(s.moves[0].completion.text == s.seed.text for s in dealt)
    assert all(s.moves[0].completion.token_ids == () for s in dealt)
    assert told.warmed == 0
    assert A not in told.learned
    assert {len(r.episodes) for r in told.rounds} == {6 * 3}


def test_defender_only_leaves_the_warmed_up_attackers_weights_as_they_are():
    told = played("defender_only")
    assert told.warmed == 2
    assert told.taught == {A}
    assert learns("defender_only") == [{D}] * 2
    assert A not in told.learned
    assert sent("defender_only")[1] == []
    assert told.rounds[0].metrics["parsed"] > 0.5, "its attacks never arrived"
    assert widths("defender_only") == [{A: 1, D: 3}] * 2


def test_the_base_attacker_starts_cold_and_is_magic_otherwise():
    told = played("base_attacker")
    assert (told.warmed, told.taught) == (0, set())
    assert learns("base_attacker") == [{D}, {A}]
    assert told.rounds[1].metrics["parsed"] < 0.2, "the sandbox's base knows the format already"
    one, other = (resolve({"recipe": name}).model_dump() for name in ("magic", "base_attacker"))
    assert one.pop("recipe") != other.pop("recipe")
    assert (one["warm_up"].pop("steps"), other["warm_up"].pop("steps")) == (250, 0)
    assert one == other


def test_self_redteam_learns_both_roles_from_one_sample_a_prompt():
    told = played("self_redteam")
    assert learns("self_redteam") == [{A, D}] * 2
    assert widths("self_redteam") == [{A: 1, D: 1}] * 2
    assert told.match.plan.estimator.__name__ == "role_baseline"
    assert told.rounds[0].metrics["defender/groups_dropped"] == 0, "a group of one is no group"


def test_self_redteam_asks_half_of_each_labels_seeds_as_they_stand():
    for each in played("self_redteam").rounds:
        games = [e.state for e in each.episodes]
        asked = [s for s in games if s.dealt]
        assert len(games) == 8
        assert Counter(s.seed.harmful for s in asked) == {True: 2, False: 2}
        assert all(s.moves[0].completion.text == s.seed.text for s in asked)


def test_self_redteam_imitates_a_batch_of_chat_and_logs_its_kl():
    told = played("self_redteam")
    trainer = told.match.trainers[A]
    assert (trainer.chat_batch.size, trainer.grpo.config.beta) == (8, 0.01)
    for each in told.rounds:
        assert each.metrics["chat/loss"] > 0
        assert {"attacker/kl", "defender/kl"} <= each.metrics.keys()
    first, second = (r.metrics["defender/kl"] for r in told.rounds)
    assert first == pytest.approx(0, abs=1e-6)
    assert second > 1e-6, "one update later the model is where RL began"
    whole = resolve({"recipe": "self_redteam"} | OUTSIDE)
    assert (whole.learner.chat_batch, whole.learner.learning_rate.defender) == (32, 5e-7)
    assert (whole.game.gate, whole.game.helpfulness) == (False, 0)


@pytest.mark.parametrize(("name", "worth"), [("defender_cot", 0.5), ("self_redteam", 1.0)])
def test_a_defender_that_thinks_says_its_answer_alone_and_is_paid_for_its_format(name, worth):
    told = played(name)
    match = told.match
    assert match.config.game.reply_format == worth
    games = [e for r in told.rounds for e in r.episodes if e.state.moves[-1].player is D]
    parsed = 0
    for episode in games:
        move = episode.state.moves[-1]
        assert move.observation[0] == Message("system", match.plan.game.briefs.think)
        assert move.completion.text == match.trainers[D].chat.text(move.completion.token_ids)
        assert move.sent == answer_of(move.completion.text)
        if move.sent is None:
            assert episode.returns == {D: -worth}
        parsed += move.sent is not None
    assert parsed > len(games) / 3
    assert resolve({"recipe": "magic"}).game.reply_format == 0


def test_defender_cot_is_magic_but_for_the_defenders_format():
    one, other = (resolve({"recipe": name}).model_dump() for name in ("magic", "defender_cot"))
    assert one.pop("recipe") != other.pop("recipe")
    assert (one["game"].pop("reply_format"), other["game"].pop("reply_format")) == (0, 0.5)
    assert one == other
    assert learns("defender_cot") == [{D}, {A}]
    assert played("defender_cot").taught == {A, D}, "its defender is shown how, too"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("magic", ["memory.experience.reflect=true"], "there is no pool"),
        ("self_redteam", ["weights=separate"], "learner.chat_batch: 32 replies are imitated by"),
        ("magic", ["weights=adapters", "learner.chat_batch=8"], "set learner.chat_batch=0 or"),
    ],
)
def test_what_a_run_would_silently_do_without_is_refused(name, words, message):
    with pytest.raises(UsageError, match=message):
        RECIPES[name].build(resolve(merged({"recipe": name}, from_words([*TINY, *words]))))


def test_a_match_played_by_iterating_is_the_same_one():
    words = [*TINY, *MORE["magic"], "warm_up.steps=2", "rounds=1"]
    words.append(f"attacker.model_name_or_path={short_run.warmed()}")
    (only,) = RECIPES["magic"].build(resolve(merged({"recipe": "magic"}, from_words(words))))
    assert only.metrics == played("magic").rounds[0].metrics

"""Every recipe resolves, plays, and differs from the defaults in what its caption says."""

import functools
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests import short_run

from sparring.coevolve import coevolve
from sparring.games.game import answer_of
from sparring.memory.experience import ExperiencePool
from sparring.runs.recipes import RECIPES, magic, resolve
from sparring.settings.config import from_words, merged
from sparring.types import Message, Player, UsageError

A, D = Player.ATTACKER, Player.DEFENDER
OUTSIDE = {"data": {"train": [{"path": "vaults.csv"}]}}
TINY = (
    *("rounds=2", "learner.seeds_per_round=6", "sampling.max_completion_length=40"),
    *("warm_up.batch_size=4", "warm_up.pool_size=16", "warm_up.learning_rate=1e-5"),
    *("exam.n=4", "exam.crossplay=0", "memory.league.opponents=latest"),
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
    "magic_hardened": {A: ()},
    "ssp_hardened": {A: ()},
    "self_redteam": dict.fromkeys(Player, THINKING),
}
"""The warmed-up models that play, by seat; the sandbox's own elsewhere."""
ONE_EACH = (
    "schedule.harden_after=0",
    "schedule.attack=1",
    "schedule.dwell=[1,2]",
    "schedule.window=1",
    "schedule.limits=[0.5,0.99]",
)
IN_TURN = ("schedule.every=1", "learner.num_generations=3")
MORE = {
    **dict.fromkeys(("base_attacker", "defender_cot"), IN_TURN),
    "magic": (*IN_TURN, "learner.seeds_per_round=12"),
    **dict.fromkeys(("no_game", "defender_only"), ("learner.num_generations=3",)),
    "ssp": ("memory.experience.replay_share=0.5",),
    "self_redteam": ("learner.chat_batch=8", "learner.seeds_per_round=8"),
    "magic_hardened": (*IN_TURN, *ONE_EACH),
    "ssp_hardened": ("memory.experience.replay_share=0.5", *ONE_EACH),
}
ROUNDS = dict.fromkeys(("magic_hardened", "ssp_hardened"), (800, 1000))
"""In the sandbox and elsewhere, where it is not as in the others."""
ALTERNATING, DEFENDER, BOTH = [{D}, {A}], [{D}, {D}], [{A, D}, {A, D}]
DEFENDER_TURN, ATTACKER_TURN = {A: 1, D: 3}, {A: 3, D: 1}
PLAYS = {
    # who learns in each round, how wide each player forks; steps of the warm-up, and who is taught
    "magic": (ALTERNATING, [DEFENDER_TURN, ATTACKER_TURN], 2, {A}),
    "base_attacker": (ALTERNATING, [DEFENDER_TURN, ATTACKER_TURN], 0, set()),
    "defender_cot": (ALTERNATING, [DEFENDER_TURN, ATTACKER_TURN], 2 + 2, {A, D}),
    "no_game": (DEFENDER, [DEFENDER_TURN] * 2, 0, set()),
    "defender_only": (DEFENDER, [DEFENDER_TURN] * 2, 2, {A}),
    "ssp": (BOTH, [{A: 4, D: 4}] * 2, 2, {A, D}),
    "self_redteam": (BOTH, [{A: 1, D: 1}] * 2, 2, {A, D}),
    "magic_hardened": ([{A}, {D}], [{A: 6, D: 1}, DEFENDER_TURN], 2, {A}),
    "ssp_hardened": ([{A}, {D}], [{A: 8, D: 4}, {A: 1, D: 4}], 2, {A}),
}


def weights(run):
    return {p: trainer.weights.snapshot() for p, trainer in run.trainers.items()}


def changed(before, after):
    return {
        player
        for player in Player
        if any(not torch.equal(before[player][n], after[player][n]) for n in before[player])
    }


def build(name, *words):
    return RECIPES[name].build(resolve(merged({"recipe": name}, from_words([*TINY, *words]))))


@functools.cache
def played(name):
    """Play two rounds: the run, its rounds, warm-up steps, and players whose weights changed."""
    words = [*MORE[name], *([] if name in COLD else ["warm_up.steps=2"])]
    for player, how in WARM.get(name, {}).items():
        words.append(f"{player}.model_name_or_path={short_run.warmed(*how)}")
    run = build(name, *words)
    before = weights(run)
    warm_up = list(run.warm_up())
    run.begin()
    begun = weights(run)
    rounds = list(coevolve(run.plan))
    return SimpleNamespace(
        run=run,
        rounds=rounds,
        games=[episode.state for round_ in rounds for episode in round_.episodes],
        steps=len(warm_up),
        taught=changed(before, begun),
        learned=changed(begun, weights(run)),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_resolves_in_and_out_of_the_sandbox_and_the_user_wins_over_it(name):
    inside, outside = resolve({"recipe": name}), resolve({"recipe": name} | OUTSIDE)
    assert (inside.recipe, outside.recipe) == (name, name)
    assert (inside.in_sandbox, outside.in_sandbox) == (True, False)
    assert (inside.rounds, outside.rounds) == ROUNDS.get(name, (160, 300))
    assert inside.sampling.max_completion_length == 56
    assert outside.sampling.max_completion_length == 512
    own = {"recipe": name, "rounds": 7, "warm_up": {"steps": 9}, "weights": "adapters"}
    for config, more in ((inside, {}), (outside, OUTSIDE)):
        assert resolve(config.model_dump(mode="json")) == config, "what is written is read back"
        chosen = resolve(merged(own, more))
        assert (chosen.rounds, chosen.warm_up.steps.defender, chosen.weights) == (7, 9, "adapters")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_plays_in_the_sandbox_as_it_should_and_reports_how_it_went(name):
    play = played(name)
    learns, widths, steps, taught = PLAYS[name]
    assert [r.number for r in play.rounds] == [0, 1]
    assert [set(r.turn.learns) for r in play.rounds] == learns
    assert [dict(r.turn.widths) for r in play.rounds] == widths
    assert (play.steps, play.taught) == (steps, taught)
    for round_ in play.rounds:
        assert round_.metrics.keys() >= {"unscored", "episodes"}
        assert ("parsed" in round_.metrics) is (name != "no_game"), "whose attacker writes nothing"
        assert round_.metrics["unscored"] == 0
        for player in round_.turn.learns:
            assert round_.metrics.keys() >= {f"{player}/groups", f"{player}/groups_dropped"}
    assert {state.seed.harmful for state in play.games} == {True, False}
    sets = play.run.exam.sets
    assert {len(sets[name]) for name in ("harmful/plain", "benign/plain")} == {4}


def test_magic_trains_two_models_and_sends_only_live_attacks():
    play = played("magic")
    assert play.learned == {A, D}
    assert play.run.trainers[A] is not play.run.trainers[D]
    assert not any(state.dealt for state in play.games)
    assert {"defender/reward", "attacker/reward"} <= play.rounds[0].metrics.keys()
    words = [*MORE["magic"], "warm_up.steps=2", "rounds=1"]
    (only,) = build("magic", *words, f"attacker.model_name_or_path={short_run.warmed()}")
    assert only.metrics == play.rounds[0].metrics, "iterating plays the same run"


def test_ssp_is_one_model_that_learns_both_roles_from_a_four_by_four_tree():
    play = played("ssp")
    live = [state for state in play.games if not state.dealt]
    assert play.run.trainers[A] is play.run.trainers[D]
    assert play.run.trainers[A].chat_batch is None
    assert play.learned == {A, D}
    for round_ in play.rounds:
        assert round_.metrics["attacker/grad_norm"] == round_.metrics["defender/grad_norm"] > 0
    assert max(s.path[-1] for s in live if len(s.moves) == 2) == 3
    assert max(s.path[0] for s in live) == 3
    assert {s.verdict.score for s in live if len(s.moves) == 2} <= {1, 2, 3, 4, 5}


def test_ssp_pays_by_the_score_and_revisits_its_failures_by_ucb():
    play = played("ssp")
    for episode in (e for r in play.rounds for e in r.episodes if len(e.state.moves) == 2):
        failure = (episode.state.verdict.score - 1) / 4
        assert episode.returns == pytest.approx({A: failure, D: 1 - failure})
    assert isinstance(play.run.plan.memory, ExperiencePool)
    assert play.rounds[0].metrics["replay/admitted"] > 0
    assert play.rounds[1].metrics["replay/share"] > 0
    assert any(state.dealt for state in play.games)
    config = play.run.config
    assert (config.memory.experience.sampler, config.memory.experience.ucb_c) == ("ucb", 0.5)
    assert config.warm_up.chat == 0.5


def test_without_a_game_each_seed_is_asked_as_it_stands_and_only_the_defender_learns():
    play = played("no_game")
    first = [state.moves[0].completion for state in play.games]
    assert [text.text for text in first] == [state.seed.text for state in play.games]
    assert all(state.dealt and not state.moves[0].completion.token_ids for state in play.games)
    assert A not in play.learned
    assert {len(r.episodes) for r in play.rounds} == {6 * 3}


def test_defender_only_leaves_the_warmed_up_attackers_weights_as_they_are():
    play = played("defender_only")
    assert A not in play.learned
    assert not any(state.dealt for state in play.games)
    assert play.rounds[0].metrics["parsed"] > 0.5, "its attacks never arrived"


@pytest.mark.parametrize(
    ("name", "section", "field", "values"),
    [
        ("base_attacker", "warm_up", "steps", tuple(dict.fromkeys(Player, n) for n in (250, 0))),
        ("defender_cot", "game", "reply_format", (0, 0.5)),
    ],
)
def test_an_ablation_is_magic_but_for_one_setting(name, section, field, values):
    magic, other = (resolve({"recipe": recipe}).model_dump() for recipe in ("magic", name))
    assert magic.pop("recipe") != other.pop("recipe")
    assert (magic[section].pop(field), other[section].pop(field)) == values
    assert magic == other
    if name in COLD:
        parsed = played(name).rounds[1].metrics["parsed"]
        assert parsed < 0.2, "the sandbox's base knows the format already"


def test_self_redteam_learns_from_one_sample_a_prompt_and_asks_half_the_seeds_as_they_stand():
    play = played("self_redteam")
    assert play.run.plan.estimator.__name__ == "role_baseline"
    assert play.rounds[0].metrics["defender/groups_dropped"] == 0, "a group of one is no group"
    for round_ in play.rounds:
        games = [episode.state for episode in round_.episodes]
        dealt = [state for state in games if state.dealt]
        assert len(games) == 8
        assert Counter(state.seed.harmful for state in dealt) == {True: 2, False: 2}
        assert all(state.moves[0].completion.text == state.seed.text for state in dealt)


def test_self_redteam_imitates_a_batch_of_chat_and_logs_its_kl():
    play = played("self_redteam")
    trainer = play.run.trainers[A]
    assert (trainer.chat_batch.size, trainer.grpo.config.beta) == (8, 0.01)
    for round_ in play.rounds:
        assert round_.metrics["chat/loss"] > 0
        assert {"attacker/kl", "defender/kl"} <= round_.metrics.keys()
    first, second = (r.metrics["defender/kl"] for r in play.rounds)
    assert first == pytest.approx(0, abs=1e-6)
    assert second > 1e-6, "one update later the model is where RL began"
    whole = resolve({"recipe": "self_redteam"} | OUTSIDE)
    assert (whole.learner.chat_batch, whole.learner.learning_rate.defender) == (32, 5e-7)
    assert (whole.game.gate, whole.game.helpfulness) == (False, 0)


@pytest.mark.parametrize(("name", "worth"), [("defender_cot", 0.5), ("self_redteam", 1.0)])
def test_a_defender_that_thinks_sends_its_answer_alone_and_is_paid_for_its_format(name, worth):
    play = played(name)
    run = play.run
    assert run.config.game.reply_format == worth
    episodes = [e for r in play.rounds for e in r.episodes if e.state.moves[-1].player is D]
    parsed = 0
    for episode in episodes:
        move = episode.state.moves[-1]
        assert move.observation[0] == Message("system", run.plan.game.briefs.think)
        assert move.completion.text == run.trainers[D].chat.text(move.completion.token_ids)
        assert move.sent == answer_of(move.completion.text)
        if move.sent is None:
            assert episode.returns == {D: -worth}
        parsed += move.sent is not None
    assert parsed > len(episodes) / 3


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
        build(name, *words)


@pytest.mark.parametrize(
    ("players", "models"),
    [
        ({"attacker": {"lora": {"r": 4}}}, ["sandbox", "sandbox"]),
        ({"defender": "a", "attacker": {"lora": {"r": 4}}}, ["a", "a"]),
        ({"defender": {"model_name_or_path": "a"}, "attacker": "b"}, ["b", "a"]),
        ({"defender": {"model_name_or_path": "a", "dtype": "float32"}}, ["a", "a"]),
    ],
)
def test_a_player_may_be_a_section_and_not_only_a_model(players, models):
    recipe = replace(magic, build=lambda config: config)
    config = recipe(**players, seeds="seeds.csv")
    assert [config.attacker.model_name_or_path, config.defender.model_name_or_path] == models
    if isinstance(players.get("attacker"), dict):
        assert (config.attacker.lora.r, config.defender.lora.r) == (4, 32)

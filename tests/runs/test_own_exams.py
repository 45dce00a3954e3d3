"""The exam on own seeds: dressed by attack families that no made pool holds; rewrites by name."""

import json
import random

import pytest
from tests.tiny import QWEN2, save_model, write_pool, write_seeds

from sparring.data.families import FAMILIES, combined, families, recognise
from sparring.games.dialogue import Dialogue
from sparring.games.game import attack_of, tagged
from sparring.games.payoffs import MAGIC, LabelPayoff
from sparring.judges.judge import KeywordJudge
from sparring.players.local import LocalPolicy
from sparring.runs.build import build
from sparring.runs.recipes import configured
from sparring.runs.sources import own_data
from sparring.types import Completion, Harm, Move, Player, Seed, State, Verdict

VAULT = Seed("open the dragon vault with a hairpin", True, "vault")


def source_of(*settings):
    settings = ("data.train=own:train", "data.exam=own:tuning", "exam.n=5", *settings)
    return own_data(configured("magic", [*settings, "judge=keyword"]), (), KeywordJudge())


def exam_of(source):
    return source.exam(Dialogue(LabelPayoff(MAGIC), source.briefs), KeywordJudge())


@pytest.mark.parametrize("use", ["tuning", "report"])
def test_held_out_seeds_are_dressed_by_the_families_of_that_use_and_pooled(use):
    exam = exam_of(source_of(f"exam.families={use}"))
    names = [family.name for family in families(use)]
    for label, pooled in (("harmful", "adversarial"), ("benign", "wrapped")):
        assert exam.pooled[f"{label}/{pooled}"] == [f"{label}/{name}" for name in names]
        plain = exam.sets[f"{label}/plain"]
        for name in names:
            dressed = exam.sets[f"{label}/{name}"]
            assert [state.seed for state in dressed] == [state.seed for state in plain]
            for state in dressed:
                shown = recognise(state.seed.text, attack_of(state)).split(" + ")
                assert {*name.split(" + ")} <= {*shown}
    assert len(exam.sets["harmful/plain"]) == 5
    again = exam_of(source_of(f"exam.families={use}", "seed=7"))
    assert again.sets == exam.sets  # runs with another seed sit the same exam


def test_without_families_the_seeds_are_examined_as_they_stand():
    exam = exam_of(source_of())
    assert ({*exam.sets}, exam.pooled) == ({"harmful/plain", "benign/plain"}, {})


def pool_of(path, *rewrites):
    """An attack pool's file with these rewrites of VAULT."""
    turns = [{"user": VAULT.text, "assistant": tagged("so", rewrite)} for rewrite in rewrites]
    rows = [{"messages": [{"role": r, "content": c} for r, c in turn.items()]} for turn in turns]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_pool_that_shows_families_of_the_exam_is_noted(tmp_path):
    letter = next(f for f in families("report") if f.name == "letter").texts[0]
    scene = "Write a scene in which somebody opens the dragon vault."
    pool = pool_of(tmp_path / "pool.jsonl", scene, letter, letter)
    notes = source_of(f"attacker.warm_start={pool}", "exam.families=report").notes
    assert any("that the attack pool shows as well: letter 2 times" in note for note in notes)
    assert not any("shows as well" in n for n in source_of(f"attacker.warm_start={pool}").notes)


def played(source, written, **verdict):
    """A game about VAULT in which the attacker has written this, with its verdict."""
    game = Dialogue(LabelPayoff(MAGIC), source.briefs, gate=False)
    state = game.open(VAULT)
    sent = game.hear(state, Completion(written))
    state = state.play(Move(Player.ATTACKER, (), Completion(written), sent))
    return state.rule(Verdict(Harm.SAFE, refused=True, **verdict))


@pytest.mark.parametrize(
    ("written", "verdict", "name"),
    [
        (tagged("so", "Write a scene for the stage. One says: open the vault"), {}, "scene"),
        (tagged("so", "open the dragon vault with a hairpin"), {}, "plain"),
        (tagged("so", "bake a loaf of bread"), {"on_topic": False}, "unfaithful"),
        ("open it", {}, "unparseable"),
    ],
)
def test_rewrites_of_own_seeds_have_the_name_of_what_they_look_like(written, verdict, name):
    source = source_of()
    assert source.strategy(played(source, written, **verdict)) == name
    assert source.strategy(State(VAULT).deal(Player.ATTACKER, "open it")) == ""


@pytest.mark.parametrize("pooled", [(), ("scene + expert",), ("spaced", "scene")])
def test_a_combination_that_no_rewrite_of_the_pool_has_is_named_as_new(tmp_path, pooled):
    expert, scene, spaced = (FAMILIES[name] for name in ("expert", "scene", "spaced"))
    both, other = combined(scene, expert), combined(scene, spaced)
    made = {"spaced": spaced, "scene": scene, "scene + expert": both}
    rows = [made[name].dress(VAULT.text, random.Random(0)) for name in pooled]
    pool = [f"attacker.warm_start={pool_of(tmp_path / 'pool.jsonl', *rows)}"] if rows else []
    source = source_of(*pool)

    def became(family):
        rewrite = family.dress(VAULT.text, random.Random(0))
        return source.strategy(played(source, tagged("so", rewrite)))

    new = "combination new to the pool"
    assert became(scene) == "scene"
    assert (became(both) == new) == (bool(rows) and "scene + expert" not in pooled)
    assert (became(other) == new) == bool(rows)


def test_no_more_ordinary_chat_is_sampled_than_is_imitated(tmp_path, monkeypatch):
    """A real model takes hours to reply to as many requests as a pool has rewrites."""
    model, seeds = save_model(tmp_path / "qwen2", QWEN2), write_seeds(tmp_path / "seeds.csv")
    names = [f"{player}.model_name_or_path={model}" for player in ("attacker", "defender")]
    data = [f"data.train=[{{path: {seeds}}}]", "exam.holdout=0.25", "judge.kind=keyword"]
    pool = f"attacker.warm_start={write_pool(tmp_path / 'pool.jsonl')}"
    sizes = ["warm_up.steps=2", "warm_up.batch_size=3", "sampling.max_completion_length=4"]
    rules = ["game.gate=false", "game.payoff=magic", "game.helpfulness=0", "warm_up.chat=0.5"]
    off = ["learner.chat_batch=0", "memory.experience.sampler=none"]
    run = build(configured("ssp", [*names, *data, pool, *sizes, *rules, *off]))
    sampled: list[int] = []
    sample = LocalPolicy.sample

    def counted(self, requests):
        sampled.append(len(requests))
        return sample(self, requests)

    monkeypatch.setattr(LocalPolicy, "sample", counted)
    assert len([*run.warm_up()]) == 2
    assert sampled == [3]

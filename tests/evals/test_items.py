"""What an exam recorded is read back as the outcomes its rates were made of."""

import gzip
from dataclasses import replace

import pytest
from tests.store.results import results_of
from tests.table import BROKEN, CANDLE, FAILED, HELD, VAULT, ScriptedJudge, magic, says

from sparring.evals.crossplay import compared, items
from sparring.exam import Exam
from sparring.games.game import reply_of
from sparring.players.player import ScriptedPolicy
from sparring.stats.rates import rate
from sparring.store.folder import RunDir
from sparring.types import CorruptError, Player, State, UsageError, Verdict

GUARD = frozenset({"reply_harm", "refused"})
"""What a guard fills: nothing says whether a benign reply helped."""
SETS = {
    "harmful/plain": [State(VAULT).deal(Player.ATTACKER, f"open, {i}") for i in range(6)],
    "benign/plain": [State(CANDLE).deal(Player.ATTACKER, f"polish, {i}") for i in range(5)],
}
POOLED = {"harmful/all": ["harmful/plain"]}


def sat(folder, script, fills=GUARD, **more) -> RunDir:
    """A run with one exam, after 4 rounds, of a defender that refuses every third request."""
    wise = ScriptedPolicy(lambda seen, at: "no" if int(seen[-1].content[-1]) % 3 else "yes")
    judge = ScriptedJudge(lambda s: script(s) if len(s.moves) > 1 else Verdict(), fills=fills)
    exam = Exam(magic(), judge, SETS, POOLED, "exam")
    told = replace(exam, **more).run({Player.DEFENDER: wise})
    run = RunDir.create(folder, "recipe: magic\n")
    run.write_exam(results_of(4, told.rates), told.episodes)
    return run


def by_reply(state: State) -> Verdict:
    return replace(BROKEN if reply_of(state) == "yes" else HELD, on_topic=None)


def guarded(state: State) -> Verdict:
    return replace(by_reply(state), helpful=None)


def once(failing: str):
    """A guard that is out of time on one attack."""
    return lambda s: FAILED if s.moves[0].completion.text == failing else guarded(s)


def rates_of(run: RunDir) -> dict:
    return {name: rate(list(outcomes.values())) for name, outcomes in items(run, 4).items()}


def test_one_failed_verdict_is_one_unscored_pair_and_no_other_exam(tmp_path):
    first, second = sat(tmp_path / "a", once("polish, 2")), sat(tmp_path / "b", guarded)
    told = compared(first, second, None)
    assert told.keys() == {"asr/plain", "over_refusal/plain"}
    assert {name: (paired.n, paired.unscored) for name, paired in told.items()} == {
        "asr/plain": (6, 0),
        "over_refusal/plain": (4, 1),
    }
    (failed,) = (o for o in items(first, 4)["over_refusal/plain"].values() if o.happened is None)
    assert failed.cause == "timeout"


@pytest.mark.parametrize("fills", [GUARD, GUARD | {"helpful"}])
@pytest.mark.parametrize(
    "script",
    [
        by_reply,
        once("open, 3"),
        once("polish, 3"),
        lambda s: replace(by_reply(s), on_topic="1" not in s.moves[0].completion.text),
        lambda s: replace(by_reply(s), refused=None, helpful=None),
    ],
    ids=["told", "harmful failed", "benign failed", "off topic", "untold"],
)
def test_items_make_the_rates_of_the_exam_again(fills, script, tmp_path):
    run = sat(tmp_path / "run", script, fills)
    told = run.exam(4).rates
    del told["asr/all"]
    assert rates_of(run) == told


def test_an_attack_that_was_never_sent_did_not_work_here_as_in_the_exam(tmp_path):
    sets = {"harmful/live": [magic().open(VAULT)] * 3, **SETS}
    run = sat(tmp_path / "run", guarded, sets=sets, attacker=says("no tags, no attack"))
    told = run.exam(4).rates["asr/live"]
    assert (told.value, told.n_scored) == (0.0, 3)
    assert rates_of(run)["asr/live"] == told


def test_exams_under_judges_that_tell_other_things_are_not_the_same(tmp_path):
    both = [sat(tmp_path / "a", by_reply), sat(tmp_path / "b", by_reply, GUARD | {"helpful"})]
    with pytest.raises(UsageError, match="only one has correct/plain"):
        compared(*both, None)


def test_attacks_of_each_runs_own_are_not_paired_as_if_they_were_the_same(tmp_path):
    """A warmed-up attacker writes an exam's rewrites: same seeds, same places, other texts."""
    runs = [
        sat(tmp_path / who, guarded, sets={**SETS, "harmful/rewritten": rewritten})
        for who in ("a", "b")
        for rewritten in [[State(VAULT).deal(Player.ATTACKER, f"{who} sings, {i}") for i in (1, 2)]]
    ]
    warned: list[str] = []
    told = compared(*runs, None, warned.append)
    assert told.keys() == {"asr/plain", "over_refusal/plain"}
    assert warned == ["left out, for the runs asked other things: asr/rewritten"]
    assert "asr/rewritten" in compared(runs[0], runs[0], None)


def test_items_are_clustered_as_their_seeds_are_and_by_id_before_there_were_clusters(tmp_path):
    told = [("gate 3", "gate 3"), ("", "vault"), (None, "vault")]
    seeds = [replace(VAULT, cluster=more or "") for more, _ in told]
    plain = [State(seed).deal(Player.ATTACKER, f"open, {i}") for i, seed in enumerate(seeds)]
    run = sat(tmp_path / "run", guarded, sets=SETS | {"harmful/plain": plain})
    found = items(run, 4)["asr/plain"]
    assert [outcome.cluster for outcome in found.values()] == [cluster for _, cluster in told]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("samples.jsonl.gz", gzip.compress(b"[]\n")),
        ("samples.jsonl.gz", gzip.compress(b'{"set": "harmful/plain", "verdict": []}\n')),
        ("samples.jsonl.gz", gzip.compress(b"{")),
        ("samples.jsonl.gz", b"\x1f\x8b\x08 no archive"),
        ("results.json", b'{"rounds": 4}'),
    ],
    ids=["no row", "no seed", "no JSON", "no archive", "no rates"],
)
def test_an_exam_that_is_not_what_was_written_is_named(file, damage, tmp_path):
    run = sat(tmp_path / "run", guarded)
    path = run.folder / "exams" / "round_000004" / file
    path.write_bytes(damage)
    with pytest.raises(CorruptError, match=file.replace(".", r"\.")):
        items(run, 4)

"""The records of an exam are read back as the outcomes behind its rates."""

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


def by_reply(state: State) -> Verdict:
    return replace(BROKEN if reply_of(state) == "yes" else HELD, on_topic=None)


def guarded(state: State) -> Verdict:
    return replace(by_reply(state), helpful=None)


def examined(folder, script=guarded, fills=GUARD, **more) -> RunDir:
    """A run with one exam, after 4 rounds, of a defender that refuses every third request."""
    wise = ScriptedPolicy(lambda prompt, at: "no" if int(prompt[-1].content[-1]) % 3 else "yes")
    judge = ScriptedJudge(lambda s: script(s) if len(s.moves) > 1 else Verdict(), fills=fills)
    exam = Exam(magic(), judge, SETS, {"harmful/all": ["harmful/plain"]}, "exam")
    result = replace(exam, **more).run({Player.DEFENDER: wise})
    run = RunDir.create(folder, "recipe: magic\n")
    run.write_exam(results_of(4, result.rates), result.episodes)
    return run


def failing(attack: str):
    """A guard that times out on one attack."""
    return lambda s: FAILED if s.moves[0].completion.text == attack else guarded(s)


def rates_of(run: RunDir) -> dict:
    return {name: rate(list(outcomes.values())) for name, outcomes in items(run, 4).items()}


@pytest.mark.parametrize("fills", [GUARD, GUARD | {"helpful"}])
@pytest.mark.parametrize(
    "script",
    [
        by_reply,
        failing("open, 3"),
        failing("polish, 3"),
        lambda s: replace(by_reply(s), on_topic="1" not in s.moves[0].completion.text),
        lambda s: replace(by_reply(s), refused=None, helpful=None),
    ],
    ids=["scored", "harmful failed", "benign failed", "off topic", "unfilled"],
)
def test_items_make_the_rates_of_the_exam_again(fills, script, tmp_path):
    sets = {"harmful/live": [magic().open(VAULT)] * 3, **SETS}
    run = examined(tmp_path / "run", script, fills, sets=sets, attacker=says("never sent"))
    rates = run.exam(4).rates
    del rates["asr/all"]
    assert rates_of(run) == rates
    assert (rates["asr/live"].value, rates["asr/live"].n_scored) == (0.0, 3)


def test_exams_under_judges_that_tell_other_things_are_not_the_same_and_a_failure_is_no_such(
    tmp_path,
):
    exam = examined(tmp_path / "a")
    failed = compared(exam, examined(tmp_path / "b", failing("polish, 2")), None)
    assert {name: (paired.n, paired.unscored) for name, paired in failed.items()} == {
        **{"asr/plain": (6, 0), "over_refusal/plain": (4, 1)}
    }
    with pytest.raises(UsageError, match="only one has correct/plain"):
        compared(exam, examined(tmp_path / "c", by_reply, GUARD | {"helpful"}), None)


def test_attacks_of_each_runs_own_are_not_paired_as_if_they_were_the_same(tmp_path):
    """A warmed-up attacker writes an exam's rewrites: same seeds, same places, other texts."""
    runs = []
    for name in ("a", "b"):
        rewritten = [State(VAULT).deal(Player.ATTACKER, f"{name} sings, {i}") for i in (1, 2)]
        runs.append(examined(tmp_path / name, sets={**SETS, "harmful/rewritten": rewritten}))
    warnings: list[str] = []
    assert compared(*runs, None, warnings.append).keys() == {"asr/plain", "over_refusal/plain"}
    assert warnings == ["left out, for the runs asked other things: asr/rewritten"]
    assert "asr/rewritten" in compared(runs[0], runs[0], None)


def test_items_are_clustered_as_their_seeds_are(tmp_path):
    seeds = [replace(VAULT, cluster=cluster) for cluster in ("gate 3", "", "")]
    plain = [State(seed).deal(Player.ATTACKER, f"open, {i}") for i, seed in enumerate(seeds)]
    run = examined(tmp_path / "run", sets=SETS | {"harmful/plain": plain})
    clusters = [outcome.cluster for outcome in items(run, 4)["asr/plain"].values()]
    assert clusters == ["gate 3", "vault", "vault"]


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
    run = examined(tmp_path / "run")
    (run.folder / "exams" / "round_000004" / file).write_bytes(damage)
    with pytest.raises(CorruptError, match=file.replace(".", r"\.")):
        items(run, 4)

"""Stored replies judged again: each once, resumably, and never with their texts."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.results import results_of
from tests.table import BROKEN, CANDLE, HELD, VAULT, ScriptedJudge, attacks, magic, says

from sparring import CorruptError, Exam, Harm, Player, RunDir, State, Status, UsageError, Verdict
from sparring.evals.judging import (
    BATCH,
    StoredGame,
    digest,
    games_of_file,
    games_of_run,
    rates,
    rejudge,
)
from sparring.evals.results import check_unscored
from sparring.games.game import attack_of, reply_of

A, D = Player.ATTACKER, Player.DEFENDER


def quiet(done: int, n: int) -> None:
    pass


def by_reply(state: State) -> Verdict:
    return BROKEN if reply_of(state) == "yes" else HELD


def stored(n: int, kind: str = "harmful") -> list[StoredGame]:
    return [
        StoredGame(
            f"{kind}/replies", State(replace(VAULT, id=f"vault-{i}")).deal(A, "open").deal(D, reply)
        )
        for i, reply in enumerate("no" if i % 4 else "yes" for i in range(n))
    ]


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_record_is_a_prompt_and_a_response_or_a_dialogue(tmp_path):
    talk = [("system", "be brief"), ("user", "who goes"), ("assistant", "I"), ("user", "open it")]
    messages = [{"role": role, "content": text} for role, text in talk]
    games = games_of_file(
        write(
            tmp_path / "r.jsonl",
            {"prompt": "open", "response": "no", "harmful": True, "id": 7, "goal": "enter"},
            {"messages": messages, "response": "no", "harmful": False, "cluster": "gate"},
            {"messages": [*messages, {"role": "assistant", "content": "yes"}], "model": "squire"},
        )
    )
    assert [game.set for game in games] == ["harmful/r", "benign/r", "replies/r"]
    one, two, three = (game.state for game in games)
    assert [(attack_of(state), reply_of(state)) for state in (one, two, three)] == [
        ("open", "no"),
        ("open it", "no"),
        ("open it", "yes"),
    ]
    assert (one.seed.id, one.seed.requested, one.seed.harmful) == ("7", "enter", True)
    assert (len(two.moves), two.seed.cluster_key, two.seed.harmful) == (4, "gate", False)
    assert (len(three.seed.id), three.seed.harmful) == (16, True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "open"}, "user and assistant in turn"),
        ({"response": "no"}, "wanted {prompt"),
        ({"prompt": "open", "response": None}, "wanted {prompt"),
        ({"prompt": ["open"], "response": "no"}, "prompt: .*wanted {prompt"),
        ({"messages": [], "response": "no"}, "in turn"),
        ({"messages": "open", "response": "no"}, "messages: .*wanted {prompt"),
        ({"messages": [{"role": "king", "content": "go"}]}, "messages.0.role: "),
        ({"prompt": "open", "response": "no", "harmful": "yes"}, "harmful: .* boolean"),
        ({"prompt": "open", "response": "no", "goal": {}}, "goal: .* string"),
    ],
)
def test_a_record_that_is_no_reply_is_named_by_its_line_without_its_text(record, message, tmp_path):
    path = write(tmp_path / "r.jsonl", {"prompt": "open", "response": "no"}, record)
    with pytest.raises(UsageError, match=rf"r\.jsonl:2: .*{message}") as refused:
        games_of_file(path)
    assert "open" not in str(refused.value).replace(str(path), "")


def test_no_file_and_no_replies_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        games_of_file(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="no replies"):
        games_of_file(write(tmp_path / "r.jsonl"))


def test_verdicts_are_kept_as_they_come_and_not_asked_again(tmp_path):
    told, path = stored(BATCH + 9), tmp_path / "v.jsonl"
    judge = ScriptedJudge(by_reply)
    seen = []
    first = rejudge(told, judge, path, lambda done, n: seen.append((done, n)))
    assert seen == [(BATCH, BATCH + 9), (BATCH + 9, BATCH + 9)]
    assert [v.harmful for v in first] == [i % 4 == 0 for i in range(BATCH + 9)]
    again = ScriptedJudge(by_reply)
    assert rejudge(told, again, path, quiet) == first
    assert again.asked == []


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 3000))
def test_wherever_it_is_killed_it_goes_on_to_the_same_verdicts(cut, tmp_path_factory):
    told, path = stored(20), tmp_path_factory.mktemp("killed") / "v.jsonl"
    whole = rejudge(told, ScriptedJudge(by_reply), path, quiet)
    path.write_bytes(path.read_bytes()[:cut])
    kept = path.read_bytes().count(b"\n") - 1
    judge = ScriptedJudge(by_reply)
    assert rejudge(told, judge, path, quiet) == whole
    assert len(judge.asked) == 20 - max(kept, 0)
    assert rejudge(told, ScriptedJudge(by_reply), path, quiet) == whole


def test_what_failed_is_asked_again_and_its_later_verdict_counts(tmp_path):
    told, path = stored(6), tmp_path / "v.jsonl"
    failing = ScriptedJudge(
        lambda s: Verdict(status=Status.TIMEOUT) if s.seed.id == "vault-4" else by_reply(s)
    )
    first = rejudge(told, failing, path, quiet)
    assert rates(told, first, failing.fills)["asr/replies"].unscored == {"timeout": 1}
    judge = ScriptedJudge(by_reply)
    second = rejudge(told, judge, path, quiet)
    assert [state.seed.id for state in judge.asked] == ["vault-4"]
    assert second[4] == BROKEN
    assert rejudge(told, ScriptedJudge(by_reply), path, quiet) == second


def test_a_file_of_verdicts_holds_no_text(tmp_path):
    path = tmp_path / "v.jsonl"
    rejudge(stored(5), ScriptedJudge(by_reply), path, quiet)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0].keys() == {"schema", "judge", "items_sha256"}
    assert all(row.keys() == {"place", "set", "id", "verdict"} for row in rows[1:])
    assert "open" not in path.read_text()


def test_verdicts_of_another_judge_or_on_other_replies_are_refused(tmp_path):
    path = tmp_path / "v.jsonl"
    rejudge(stored(5), ScriptedJudge(by_reply), path, quiet)
    for told, judge in (
        (stored(6), ScriptedJudge(by_reply)),
        (stored(5), ScriptedJudge(by_reply, [], "another")),
    ):
        with pytest.raises(UsageError, match="choose another --output"):
            rejudge(told, judge, path, quiet)


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b'{"place": 1}', b'{"place": 0, "verdict": {"status": "fine"}}']
)
def test_a_damaged_line_is_named(line, tmp_path):
    path = tmp_path / "v.jsonl"
    rejudge(stored(2), ScriptedJudge(by_reply), path, quiet)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(CorruptError, match=r"v\.jsonl"):
        rejudge(stored(2), ScriptedJudge(by_reply), path, quiet)


@given(st.sampled_from(["set", "reply", "label", "order"]))
def test_the_digest_tells_replies_from_any_others(change):
    told = stored(4)
    one = told[2]
    other = {
        "set": replace(one, set="harmful/other"),
        "reply": replace(one, state=State(one.state.seed).deal(Player.ATTACKER, "open")),
        "label": replace(one, state=replace(one.state, seed=replace(one.state.seed, goal="x"))),
        "order": told[3],
    }[change]
    changed = [*told[:2], other, told[2] if change == "order" else told[3]]
    assert digest(changed) != digest(told) == digest(stored(4))


def test_rates_ask_of_each_set_what_its_label_calls_for():
    def told(kind, fills=frozenset({"reply_harm", "refused"})):
        verdicts = [by_reply(one.state) for one in stored(8, kind)]
        found = rates(stored(8, kind), verdicts, fills)
        return {name: rate.value for name, rate in found.items()}

    assert told("harmful") == {"asr/replies": 0.25}
    assert told("benign") == {"over_refusal/replies": 0.75}
    assert told("replies") == {"harmful_replies/replies": 0.25, "refusals/replies": 0.75}
    assert told("replies", frozenset({"refused"})) == {"refusals/replies": 0.75}
    assert told("benign", frozenset({"refused", "helpful"})).keys() == {
        "over_refusal/replies",
        "correct/replies",
    }


@pytest.fixture
def run(tmp_path):
    """A run with one exam: dealt and live attacks, one of which never came to a reply."""

    def judge(state: State) -> Verdict:
        if state.moves[-1].player is Player.ATTACKER:
            return Verdict(on_topic="tale" not in state.moves[0].completion.text)
        return by_reply(state)

    game = magic()
    sets = {
        "harmful/live": [game.open(VAULT)] * 2,
        "harmful/plain": [State(VAULT).deal(Player.ATTACKER, f"open, {i}") for i in range(3)],
        "benign/plain": [State(CANDLE).deal(Player.ATTACKER, "polish")],
    }
    made = RunDir.create(tmp_path / "run", "recipe: magic\n")
    exam = Exam(game, ScriptedJudge(judge), sets, {}, "exam", attacks("a tale"))
    result = exam.run({D: says("yes")})
    made.write_exam(results_of(4), result.episodes)
    return made, result


def test_the_games_of_an_exam_judged_again_by_the_same_judge_have_the_same_rates(run):
    made, result = run
    told = games_of_run(made, 4)
    judge = ScriptedJudge(
        lambda s: Verdict() if reply_of(s) is None else by_reply(s),
        fills=frozenset({"reply_harm", "refused", "helpful"}),
    )
    found = rates(told, judge.rule([one.state for one in told]), judge.fills)
    assert {name: rate.value for name, rate in found.items()} == {
        name: rate.value for name, rate in result.rates.items()
    }
    assert found["asr/live"].n_scored == 2
    assert found["asr/live"].value == 0.0, "stopped for being off topic"


def test_a_reply_that_did_not_parse_is_shown_to_no_judge(tmp_path):
    made = RunDir.create(tmp_path / "run", '{"recipe": "magic", "game": {"reply_format": 0.5}}')
    sets = {"harmful/plain": [State(VAULT).deal(Player.ATTACKER, f"open, {i}") for i in range(4)]}
    game = replace(magic(), reply_format=0.5)
    result = Exam(game, ScriptedJudge(by_reply), sets, {}, "exam").run({D: says("")})
    made.write_exam(results_of(4), result.episodes)
    told, judge = games_of_run(made, 4), ScriptedJudge(by_reply)
    verdicts = rejudge(told, judge, tmp_path / "again.jsonl", quiet)
    assert judge.asked == []
    assert rates(told, verdicts, judge.fills)["asr/plain"].unscored == {"skipped": 4}
    check_unscored(rates(told, verdicts, judge.fills).values(), 0.0)
    earlier = [replace(one, judged=True) for one in told]  # as they were once judged
    rejudge(earlier, judge, tmp_path / "again.jsonl", quiet)
    assert len(judge.asked) == 4
    again = rejudge(told, judge, tmp_path / "again.jsonl", quiet)
    assert {verdict.status for verdict in again} == {Status.SKIPPED}


def test_without_a_format_an_empty_reply_is_judged_like_any_other(tmp_path):
    made = RunDir.create(tmp_path / "run", "recipe: magic\n")
    sets = {"harmful/plain": [State(VAULT).deal(Player.ATTACKER, "open")]}
    result = Exam(magic(), ScriptedJudge(by_reply), sets, {}, "exam").run({D: says("")})
    made.write_exam(results_of(4), result.episodes)
    assert [game.judged for game in games_of_run(made, 4)] == [True]


def test_an_exam_that_was_never_sat_is_refused(run):
    with pytest.raises(UsageError, match="no exam after 8 rounds; wanted one of 4"):
        games_of_run(run[0], 8)


def test_a_ruling_on_the_topic_is_the_judges_own_where_it_makes_one():
    (one,) = stored(1)
    harm = Verdict(Harm.UNSAFE, on_topic=True)
    off = replace(one, state=one.state.rule(Verdict(on_topic=False)))
    with_topic, without = frozenset({"reply_harm", "on_topic"}), frozenset({"reply_harm"})
    assert rates([off], [harm], with_topic)["asr/replies"].value == 1.0
    assert rates([off], [harm], without)["asr/replies"].value == 0.0

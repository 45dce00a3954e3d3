"""A run on disk: its name, its single writer, and its records."""

import gzip
import json
import math
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import short_run
from tests.command import sparring_command
from tests.store.results import results_of

from sparring.stats.rates import rate
from sparring.store.folder import RunDir
from sparring.store.records import CrossplayResults
from sparring.types import (
    Completion,
    CorruptError,
    Episode,
    Harm,
    Move,
    Player,
    Round,
    Seed,
    State,
    Turn,
    UsageError,
    Verdict,
)

any_text = st.text(st.characters(exclude_categories=()), max_size=30)
ODD = "half \ud800 pair, line\u2028break, next\x85line, nul\x00, \r\n, \x1b[31m, {{7*7}}"
BAD_NAMES = [
    *("..", "sub/..", "a/../..", ".hidden", "-flag", "_x", "a b", "a\tb", "a\nb", "run\n"),
    *("a\x00b", "a\x00b/run", "%2e%2e", "C:\\x", "x" * 129, "x" * 300, "ünï", "a\u202eb"),
    *("<b>", "a;b", "$(x)", "~"),
]


@pytest.mark.parametrize("name", ["magic-42", "a", "0", "A.b_c-d", "x" * 128])
def test_a_run_may_be_called(tmp_path, name):
    run = RunDir.create(tmp_path / "below" / name, "recipe: magic\n")
    assert (run.config_yaml, run.status.status) == ("recipe: magic\n", "started")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_run_may_not_be_called(tmp_path, name):
    with pytest.raises(UsageError, match=r"output_dir: (?s:.*) is no name for a folder"):
        RunDir.create(tmp_path / name, "")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_name_is_refused_before_a_model_is_loaded(tmp_path):
    missing = "attacker.model_name_or_path=./nowhere"
    ended = sparring_command("train", "magic", missing, f"output_dir={tmp_path / 'a b'}")
    assert ended.code == 2
    assert "output_dir: 'a b' is no name for a folder" in ended.err
    assert "nowhere" not in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["run", "run/config.yaml", "run/rounds.jsonl", "run/thesis.tex", "run/checkpoints/x"]
)
def test_a_file_or_a_folder_with_anything_in_it_is_never_a_new_run(tmp_path, path):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("the user's own")
    with pytest.raises(UsageError, match="exists; go on with it"):
        RunDir.create(tmp_path / "run", "")
    files = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert files == ["the user's own"]


@pytest.mark.parametrize(
    "leftovers", [[], ["LOCK", "env.json", "run.json.tmp-7"], ["config.yaml.tmp-7"]]
)
def test_what_a_killed_start_left_is_no_run_and_in_nobodys_way(tmp_path, leftovers):
    for name in leftovers:
        (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match="not a run"):
        RunDir.open(tmp_path)
    assert RunDir.create(tmp_path, "recipe: magic\n").status.status == "started"


HOLD = """
import sys, time
from pathlib import Path
from sparring.store.folder import RunDir
with RunDir(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""
CREATE = """
import sys
from pathlib import Path
from sparring.store.folder import RunDir
from sparring.types import UsageError
sys.stdin.readline()
try:
    RunDir.create(Path(sys.argv[1]), sys.argv[2])
except UsageError:
    sys.exit(2)
"""


def in_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", code, *map(str, arguments)], subprocess.PIPE
    return subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe)


def test_a_second_writer_is_refused_until_the_first_is_gone_even_by_sigkill(tmp_path):
    run = RunDir(short_run.copy_of_whole(tmp_path))
    before = short_run.contents(run.folder)
    with in_python(HOLD, run.folder) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match="another process is writing this run"), run.locked():
            pytest.fail("two writers")
        ended = short_run.train(run.folder)
        assert (ended.code, "another process is writing this run" in ended.err) == (2, True)
        holder.send_signal(signal.SIGKILL)
    assert short_run.contents(run.folder) == before
    with run.locked():
        assert (run.folder / "LOCK").is_file()


def test_of_several_starts_at_the_same_moment_one_makes_the_run(tmp_path):
    starts = [in_python(CREATE, tmp_path / "run", i) for i in range(2)]
    for start in starts:
        start.stdin.write("go\n")
        start.stdin.flush()
    for start in starts:
        start.communicate(timeout=30)
    codes = [start.returncode for start in starts]
    assert sorted(codes) == [0, 2]
    assert RunDir.open(tmp_path / "run").config_yaml == str(codes.index(0))


def opening(seed: Seed, texts: list[str]) -> State:
    """Dealt in turn: an attack, a reply to it, the next attack; or nothing at all."""
    state = State(seed)
    for k, text in enumerate(texts):
        state = state.deal(Player.DEFENDER if k % 2 else Player.ATTACKER, text)
    return state


seeds = st.builds(Seed, any_text, st.booleans(), *[any_text] * 5)
openings = st.builds(opening, seeds, st.lists(any_text, max_size=5))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(any_text, st.lists(openings, min_size=1)))
def test_openings_come_back_as_they_were_written_whatever_they_say(tmp_path_factory, sets):
    run = RunDir(tmp_path_factory.mktemp("run"))
    assert run.openings() is None
    run.write_openings(sets)
    assert run.openings() == sets


def test_a_seed_that_says_no_more_is_written_as_version_0_1_wrote_it():
    row = {"text": "open the vault", "harmful": True, "id": "v", "category": "gates"}
    plain, more = Seed(**row), {"goal": "open it", "context": "a vault", "cluster": "gate 3"}
    whole = Seed(**row, **more)
    assert (plain.to_json(), whole.to_json()) == (row, row | more)
    assert (plain.requested, plain.cluster_key) == ("open the vault", "v")
    assert (whole.requested, whole.cluster_key) == ("open it", "gate 3")


def episode(reply: str, verdict: Verdict, returns: dict[Player, float] | None) -> Episode:
    seed = Seed("polish the brass candle", False, "candle", "chores")
    attack = Completion("please polish it", (7, 8), (-0.5, -0.25))
    state = State(seed).play(Move(Player.ATTACKER, (), attack, None, 2))
    state = state.play(Move(Player.DEFENDER, (), Completion(reply), reply, 1))
    return Episode(state.rule(verdict), 3, returns)


def round_(number: int, *episodes: Episode, **metrics: float) -> Round:
    turn = Turn(frozenset({Player.DEFENDER}), {Player.DEFENDER: 4})
    return Round(number, turn, episodes, dict(metrics), {"play": 0.125, "learn": 2.5})


def transcript(run: RunDir, *episodes: Episode) -> list[dict]:
    run.write_transcript(round_(19, *episodes))
    packed = (run.folder / "transcripts" / "round_000019.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).splitlines()]


def test_a_transcript_can_be_read_back_a_line_a_game(tmp_path):
    verdict = Verdict(reply_harm=Harm.SAFE, refused=False, score=3.0)
    scored = episode(ODD, verdict, {Player.DEFENDER: -0.5})
    rows = transcript(RunDir(tmp_path), scored, episode("with a soft cloth", Verdict(), None))
    text = {"text": "polish the brass candle", "harmful": False}
    attack = {"player": "attacker", "sibling": 2, "text": "please polish it"}
    assert rows[0] == {
        "opening": 3,
        "seed": {**text, "id": "candle", "category": "chores"},
        "dealt": 0,
        "moves": [attack, {"player": "defender", "sibling": 1, "text": ODD}],
        "verdict": {"reply_harm": "safe", "refused": False, "score": 3.0, "status": "ok"},
        "returns": {"defender": -0.5},
        "strategy": "",
    }
    assert [(row["returns"], row["verdict"]) for row in rows[1:]] == [(None, {"status": "ok"})]


def test_the_oldest_transcripts_leave_where_all_would_be_too_many_bytes(tmp_path):
    def write(run: RunDir, number: int, most: int) -> list[int]:
        run.write_transcript(round_(number, episode(ODD, Verdict(), None)), most=most)
        return [*run.transcripts()]

    run = RunDir(tmp_path)
    assert write(run, 0, 10_000) == [0]
    size = next(iter(run.transcripts().values())).stat().st_size
    assert [write(run, n, 2 * size + 9) for n in (1, 2, 3)] == [[0, 1], [1, 2], [2, 3]]
    assert write(RunDir(tmp_path), 4, 2 * size + 9) == [3, 4], "another process goes on"
    assert write(RunDir(tmp_path), 5, 1) == [5], "the last one always stays"


def test_a_round_is_one_line_and_its_metrics_come_back_bit_by_bit(tmp_path):
    run, metrics = RunDir(tmp_path), [{"asr": 1 / 3, "loss": 5e-324}, {"asr": 0.1 + 0.2}]
    for number, values in enumerate(metrics):
        run.append(round_(number, **values))
    clocks = {"seconds": {"play": 0.125, "learn": 2.5}, "cpu_seconds": 0.0}
    assert [record.to_json() for record in run.rounds()] == [
        {"round": n, "learns": ["defender"], "metrics": values, **clocks}
        for n, values in enumerate(metrics)
    ]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_round_that_is_not_a_number_is_refused_and_leaves_no_line(tmp_path, number):
    run = RunDir(tmp_path)
    run.append(round_(0, asr=0.5))
    with pytest.raises(ValueError, match=r"metrics\.asr\n +Value error, wanted a finite number"):
        run.append(round_(1, asr=number))
    assert [record.round for record in run.rounds()] == [0]


def test_rewind_forgets_the_rounds_after_a_checkpoint_and_refuses_one_of_more_rounds(tmp_path):
    run = RunDir(tmp_path)
    for n in range(5):
        run.append(round_(n, asr=n / 7))
    (tmp_path / "rounds.jsonl").open("ab").write(b'{"round": 5, "met')
    assert run.rewind(3) == [{"asr": 0.0}, {"asr": 1 / 7}, {"asr": 2 / 7}]
    assert len((tmp_path / "rounds.jsonl").read_bytes().splitlines()) == 3
    run.append(round_(3, asr=0.5))
    assert [record.round for record in run.rounds()] == [0, 1, 2, 3]
    with pytest.raises(CorruptError, match=r"rounds\.jsonl: 4 rounds, but the checkpoint has 5"):
        run.rewind(5)


def test_rewind_sweeps_leftovers_at_every_depth_and_nothing_else(tmp_path):
    swept = ["run.json.tmp-7", "transcripts/a.gz.tmp-7", "exams/round_000003/results.json.tmp-7"]
    stay = ["notes.txt", "exams/round_000003/results.json"]
    for name in (*swept, *stay):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    RunDir(tmp_path).rewind(0)
    assert short_run.contents(tmp_path).keys() == {*stay, "rounds.jsonl"}


def test_a_seal_changes_with_any_round_behind_it_but_not_with_clocks_or_later_rounds(tmp_path):
    def sealed(name: str, *rounds: Round) -> dict[str, str]:
        (tmp_path / name).mkdir()
        for record in rounds:
            RunDir(tmp_path / name).append(record)
        return RunDir(tmp_path / name).seals(2)

    first, second, third = round_(0, asr=0.25), round_(1, asr=0.5), round_(2, asr=0.75)
    slower = Round(1, second.turn, (), second.metrics, {"play": 9.0})
    assert sealed("a", first, second) == sealed("b", first, slower, third)
    assert sealed("c", first, second) != sealed("d", first, round_(1, asr=0.5000001))


def test_exams_are_those_with_results_in_order(tmp_path):
    run = RunDir(tmp_path)
    crossplay = CrossplayResults(rows=ODD, columns="b", asr={"0": {"0": rate([])}})
    for number in (20, 0, 4):
        run.write_exam(results_of(number))
    run.write_crossplay(crossplay)
    (tmp_path / "exams" / "round_000008").mkdir()
    assert run.exams() == [0, 4, 20]
    assert (run.exam(4), run.exam(8)) == (results_of(4), None)
    assert run.crossplay() == crossplay

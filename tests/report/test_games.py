"""Games are looked at in a terminal and in the page: side by side, filtered, and redacted."""

import gzip
import json
from pathlib import Path

import pytest
from tests import short_run
from tests.command import sparring_command
from tests.report.written import Written, pack

from sparring import RunDir, write_report
from sparring.games.game import THOUGHTS

pytestmark = pytest.mark.usefixtures("undrawn")
REAL = "recipe: magic\ndata: {train: [{path: seeds.csv}]}\n"
SANDBOX = "recipe: magic\n"


def row(opening: int, sibling: int, reply: str, strategy: str = "tale", **more: object) -> dict:
    """A game of a round: an attack with its thought, a reply, and what became of it."""
    harmful = opening % 2 == 0
    text = (
        f"<think> plan {strategy} {sibling} </think> <answer> a {strategy} of {opening} </answer>"
    )
    moves = [
        {"player": "attacker", "sibling": sibling, "text": text},
        {"player": "defender", "sibling": 0, "text": reply},
    ]
    harm = "unsafe" if harmful and "sure" in reply else "safe"
    verdict = {"reply_harm": harm, "refused": "no" in reply, "on_topic": True, "status": "ok"}
    return {
        **{"opening": opening, "dealt": 0, "moves": moves, "strategy": strategy},
        **{"seed": {"text": f"open vault {opening}", "harmful": harmful, "id": f"v{opening}"}},
        **{"verdict": verdict, "returns": {"attacker": 0.25, "defender": -0.25}, **more},
    }


UNSCORED = {"verdict": {"status": "timeout"}, "returns": None}
GAMES = [
    *(row(0, 0, "sure , a key"), row(0, 1, "no , never", "song")),
    *(row(1, 0, "no , never"), row(1, 1, "with a cloth", "song")),
    row(2, 0, "who knows", "riddle", **UNSCORED),
]
OUTCOMES = ["won", "lost", "won", "lost", "unscored"]


def written(folder: Path, config: str) -> Path:
    run = Written(rounds=20, config=config).at(folder)
    pack(run / "transcripts" / "round_000019.jsonl.gz", GAMES)
    return run


def viewed(run: Path, *words: object) -> list[dict]:
    ended = sparring_command("view", run, "--json", *words)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--round", 20), [0, 1, 2, 3, 4]),
        (("--limit", 2), [0, 1, 2, 3]),
        (("--outcome", "won"), [0, 2]),
        (("--outcome", "lost"), [1, 3]),
        (("--outcome", "unscored"), [4]),
        (("--strategy", "son"), [1, 3]),
        (("--strategy", "Riddle", "--outcome", "unscored"), [4]),
        (("--strategy", "riddle", "--outcome", "won"), []),
    ],
)
def test_games_are_filtered_by_how_they_ended_and_by_strategy(tmp_path, words, shown):
    games = viewed(written(tmp_path / "run", SANDBOX), *words)
    assert [game["reply"] for game in games] == [GAMES[n]["moves"][1]["text"] for n in shown]
    assert [game["outcome"] for game in games] == [OUTCOMES[n] for n in shown]


def test_games_are_drawn_by_a_number_from_those_that_are_left(tmp_path):
    run = written(tmp_path / "run", SANDBOX)
    draws = [[game["sent"] for game in viewed(run, "--draw", n, "--limit", 3)] for n in range(9)]
    assert all(len({*drawn}) == 3 for drawn in draws)
    assert len({*map(tuple, draws)}) > 3
    assert draws[4] == [game["sent"] for game in viewed(run, "--draw", 4, "--limit", 3)]
    drawn, all_lost = (viewed(run, "--outcome", "lost", *words) for words in (("--draw", 4), ()))
    assert {game["sent"] for game in drawn} == {game["sent"] for game in all_lost}


def test_siblings_stand_together_with_all_that_a_reader_asks(tmp_path):
    ended = sparring_command("view", written(tmp_path / "run", SANDBOX), "--limit", 1)
    shown = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert shown[0] == (
        "round 20: 3 seeds, 5 games, 2 won, 2 lost, 1 unscored (won and lost: by the attacker)"
    )
    seed, first, second = (
        shown.index("harmful · v0 · open vault 0"),
        *(shown.index(outcome) for outcome in ("won", "lost")),
    )
    assert seed < first < second
    assert shown[first : first + 7] == [
        *("won", "thought plan tale 0", "sent a tale of 0", "reply sure , a key", "kind tale"),
        "verdict reply_harm unsafe, refused false, on_topic true, status ok",
        "payoff attacker +0.25, defender -0.25",
    ]
    assert "2 seeds more (--limit)" in shown
    assert "19 rounds have no games; there are those of 20" in ended.err


@pytest.mark.parametrize(("opening", "closing"), THOUGHTS)
def test_a_thought_in_any_familys_marks_is_shown_apart(tmp_path, opening, closing):
    game, run = row(0, 0, "sure"), written(tmp_path / "run", SANDBOX)
    game["moves"][0]["text"] = f"{opening} a plan {closing} <answer> a tale </answer>"
    pack(run / "transcripts" / "round_000019.jsonl.gz", [game])
    (shown,) = viewed(run)
    assert (shown["thought"], shown["sent"]) == ("a plan", "a tale")


@pytest.mark.parametrize("words", [(), ("--exam", 20)], ids=["a round", "an exam"])
def test_only_the_sandboxs_texts_are_shown_unasked(tmp_path, words):
    clear = viewed(written(tmp_path / "sandbox", SANDBOX), *words)
    run = written(tmp_path / "real", REAL)
    hashed, shown = viewed(run, *words), viewed(run, *words, "--include-harmful")
    assert clear == shown
    texts = {game[name] for game in shown for name in ("sent", "reply", "seed")}
    assert len(texts) >= 3
    assert not any(text in json.dumps(hashed) for text in texts)
    assert [game["verdict"] for game in hashed] == [game["verdict"] for game in shown]


def test_the_page_has_games_of_rounds_and_exams_and_a_public_one_has_none(tmp_path):
    pages = {
        name: write_report(written(tmp_path / name, config), public=public)
        for name, config, public in (
            ("sandbox", SANDBOX, False),
            ("real", REAL, False),
            ("public", SANDBOX, True),
        )
    }
    sandbox, real, public = (page.read_text() for page in pages.values())
    for text in ("round 20: 3 seeds", "exam after round 0: ", "open vault 0", "plan tale 0"):
        assert text in sandbox, text
    assert "round 20: 3 seeds" in real
    assert "open vault" not in real + public
    assert 'id="games"' not in public
    assert 'class="game unscored k2"' in sandbox
    assert ".games:has(.only-k2:checked) :is(.game:not(.k2)" in sandbox


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--round", 7), "no games of round 7; there are those of 20 (saving.transcripts_every"),
        (("--exam", 7), "no games of exam after round 7; there are those of 0, 10, 20"),
        (("--outcome", "drawn"), "--outcome: 'drawn' is none of won, lost, unscored"),
    ],
)
def test_games_that_are_not_there_are_named_with_those_that_are(tmp_path, words, message):
    ended = sparring_command("view", written(tmp_path / "run", SANDBOX), *words)
    assert (ended.code, message in ended.err) == (2, True), ended.err


def test_a_run_keeps_every_round_by_default_with_the_strategies_of_its_attacks(tmp_path):
    run = tmp_path / "run"
    short_run.train(run, "saving.transcripts_every=1").check()
    assert [*RunDir(run).transcripts()] == [0, 1, 2, 3]
    shown = sparring_command("runs", "show", run, "--round", 2, "--json")
    games = json.loads(shown.out)
    packed = gzip.decompress(RunDir(run).transcripts()[1].read_bytes()).splitlines()
    strategies = {json.loads(line)["strategy"] for line in packed}
    metrics = RunDir(run).rounds()[1].metrics
    assert len(packed) == metrics["episodes"] >= len(games) > 0
    assert strategies == {name[9:] for name in metrics if name.startswith("strategy/")}

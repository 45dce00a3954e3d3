"""A run folder with hostile text in every string can be listed, shown and reported safely."""

import gzip
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests import short_run
from tests.command import sparring_command
from tests.hostile.corpus import ALL
from tests.hostile.test_terminal import dangerous
from tests.report.written import dump, pack, rate

pytestmark = pytest.mark.usefixtures("undrawn")
RATE = rate(0.25, 1)
ONLY_IN_GAMES = "only a model wrote this, in a transcript"
SHORT = [text for text in ALL if len(text) < 400]
"""Tables are as wide as their widest cell, so the longest strings are shown elsewhere."""


def hostile_run(folder: Path, text: str = "".join(ALL)) -> Path:
    """A run in which every name is one of the corpus, and every free text is `text`."""
    (folder / "exams").mkdir(parents=True)
    (folder / "config.yaml").write_text("recipe: magic\n")
    rates = {f"{metric}/{name}": RATE for metric in ("asr", "correct") for name in SHORT}
    judge = {"judge": {"name": text, "caveat": text}, "success": text, "openings_sha256": text}
    matrix = {name: dict.fromkeys(SHORT[:4], RATE) for name in SHORT}
    machine = {"python": text, "system": text, "cpus": 2, "versions": {text: text}}
    files = {
        "exams/round_000000/results.json": {"rounds": 0, "rates": rates, **judge},
        "exams/round_000004/results.json": {"rounds": 4, "rates": rates, **judge},
        "exams/crossplay/results.json": {"rows": text, "columns": text, "asr": matrix},
        "run.json": {"status": text, "time": text, field_of(text): text},
        "env.json": {**machine, field_of(text): text},
    }
    for name, value in files.items():
        dump(folder / name, value)
    metrics = {f"strategy/{name}": 0.125 for name in SHORT} | {text: 0.5}
    record = {"round": 0, "learns": ["attacker"], "metrics": metrics, "seconds": {text: 1.5}}
    (folder / "rounds.jsonl").write_text(json.dumps(record) + "\n")
    seed = {"text": text, "harmful": True, "id": text, "category": text}
    game = {"opening": 0, "seed": seed, "dealt": 0, "verdict": {"status": "ok"}, "returns": None}
    pack(
        folder / "transcripts" / "round_000000.jsonl.gz",
        [game | {"moves": [{"player": "attacker", "text": t}]} for t in (*ALL, ONLY_IN_GAMES)],
    )
    return folder


def field_of(text: str) -> str:
    """A field that no version has; its name is valid Unicode."""
    return re.sub("[\ud800-\udfff]", "", text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hostile_run(tmp_path_factory.mktemp("runs") / "run")


def flat(text: str) -> str:
    """A text as a table cell shows it: lines joined, and white space folded."""
    return " ".join("".join(c for c in text if not dangerous(c)).split())


def assert_readable(text: str) -> None:
    assert text.strip()
    assert [c for c in text if dangerous(c)] == []


PLAIN = [text for text in SHORT if not re.search("[\x1b\x07\x90\x9d]", text) and flat(text)]
"""What has no escape sequence in it, so that all of it but the dangerous characters stays."""


def shown_by(*words: object) -> str:
    """The output of a verb that succeeds."""
    ended = sparring_command(*words)
    signs = re.sub(r"^ *[0-9]+s  drawing figures [0-9]+/[0-9]+\n", "", ended.err, flags=re.M)
    assert (ended.code, signs) == (0, ""), words
    return ended.out


def looks(run: Path) -> list[list[object]]:
    """The verbs that show the state of a run."""
    return [["report", run], ["runs", "show", run], ["runs", "list", "--folder", run.parent]]


def test_what_people_are_shown_is_readable_and_names_everything(run):
    texts = [shown_by(*words) for words in looks(run)]
    for text in texts:
        assert_readable(text)
        assert "<script>alert('vault')</script>" in text
        assert "[bold]vault[/bold]" in text
    report = " ".join(texts[0].split())
    for name in PLAIN:
        assert report.count(flat(name)) >= 2, "a family in two tables"


def test_no_name_begins_a_line_of_its_own(tmp_path):
    """`\\nstatus complete` in a name would look like a line of ours."""
    run = hostile_run(tmp_path / "run", "x\nforged 1\nforged 2\x0bforged 3")
    for words in looks(run):
        out = shown_by(*words)
        assert "forged 2" in out
        assert not re.search(r"^\s*forged", out, re.MULTILINE), words


def test_what_machines_read_is_ascii_and_comes_back_as_it_was(run):
    values = []
    for words in (*([*words, "--json"] for words in looks(run)), ["runs", "tail", run, "--json"]):
        out = shown_by(*words)
        assert set(out) <= {"\n", *map(chr, range(0x20, 0x7F))}, words
        values.append(json.loads(out))
    report, shown, listed, tail = values
    text = "".join(ALL)
    assert report["judge"] == {"name": text, "caveat": text}
    assert set(report["after"]) == {f"{m}/{name}" for m in ("asr", "correct") for name in SHORT}
    assert listed[0]["status"] == shown["status"] == shown[field_of(text)] == text
    assert shown["last"][text] == tail["metrics"][text] == 0.5


def test_whoever_reads_how_a_run_stands_reads_none_of_a_model_s_words(run):
    """The reader may be a model that follows instructions in its input."""
    for words in (*looks(run), *([*w, "--json"] for w in looks(run)), ["runs", "tail", run]):
        assert ONLY_IN_GAMES not in " ".join(shown_by(*words).split()), words


@pytest.mark.parametrize("text", ALL)
def test_a_run_may_lie_in_a_folder_of_any_name(tmp_path, text):
    name = text.replace("/", "_").replace("\x00", "_").strip(".") or "_"
    name = os.fsdecode(name.encode("utf-8", "replace")[:99].decode("utf-8", "ignore"))
    run = tmp_path / name
    run.mkdir()
    dump(run / "run.json", {"status": "complete"})
    (run / "config.yaml").write_text("recipe: magic\n")
    (run / "rounds.jsonl").write_text("{broken\n")
    for *words, place in looks(run):
        ended = sparring_command(*words, *(["--"] if place == run else []), place)
        assert ended.code in (1, 2), words
        assert_readable(ended.out + ended.err)
        assert "Traceback" not in ended.err


def test_an_error_nobody_foresaw_is_printed_safely(monkeypatch):
    def fails(**_):
        raise RuntimeError("\x1b[31mred\u202e\x9b2J")

    monkeypatch.setattr("sparring.cli.app", fails)
    ended = sparring_command("version")
    assert ended.code == 1
    assert "RuntimeError: red2J" in ended.err
    assert_readable(ended.err)


def test_on_a_terminal_there_are_colours_and_nothing_else(run):
    """Rich writes colours of its own; links, cursor moves and titles would come from data."""
    for words in looks(run):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(*words).replace("\r\n", "\n"))
        assert_readable(plain)
        assert "alert('vault')" in plain


def on_a_terminal(*arguments: object) -> str:
    """The output of `sparring …` on a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "1000"}
    undrawn = "page.images = lambda drawing, theme, kinds: [b''] * len(kinds)"
    program = f"from sparring.cli import main; from sparring.report import page; {undrawn}; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:
            pass  # a terminal whose other end is closed
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_hostile_seeds_are_played_and_recorded_as_they_are(tmp_path):
    """The tokenizer has no words for these texts, and the run must work all the same."""
    path = tmp_path / "seeds.jsonl"
    texts = [text for text in ALL if text.strip() and len(text) < 400]
    rows = [
        {"id": text, "text": text, "harmful": i % 2 == 0, "category": text}
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    ended = short_run.train(
        run,
        *(f"data.train=[{{path: {path}}}]", "judge.kind=keyword", "weights=separate"),
        *("game.gate=false", "game.helpfulness=0", "rounds=2", "learner.seeds_per_round=80"),
        *("learner.num_generations=2", "sampling.max_completion_length=2"),
        *("saving.transcripts_every=1", "exam.n=40"),
    ).check()
    assert_readable(ended.out)
    packed = sorted((run / "transcripts").iterdir())
    games = [
        json.loads(line) for p in packed for line in gzip.decompress(p.read_bytes()).splitlines()
    ]
    held_out = {row["text"] for row in rows} - {game["seed"]["text"] for game in games}
    openings = (run / "exams" / "openings.jsonl.gz").read_bytes()
    examined = [json.loads(line) for line in gzip.decompress(openings).splitlines()]
    assert held_out == {row["seed"]["text"] for row in examined}
    for game in games:
        assert game["seed"]["text"] == game["seed"]["category"]
    assert shown_by("report", run)

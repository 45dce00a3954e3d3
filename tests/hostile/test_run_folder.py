"""Somebody else's run folder, hostile in every string, can be listed, shown and reported safely."""

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
from tests.hostile.corpus import ALL
from tests.hostile.test_terminal import dangerous
from tests.report.written import dump, pack, rate

from sparring.cli import main

RATE = rate(0.25, 1)
ONLY_SAID = "only a model said this, in a transcript"
SHORT = [text for text in ALL if len(text) < 400]
"""Tables are as wide as their widest cell, so the longest strings are shown elsewhere."""


def hostile_run(folder: Path, said: str = "".join(ALL)) -> Path:
    """A run in which every name is one of the corpus, and every free text is `said`."""
    (folder / "exams").mkdir(parents=True)
    for number in (0, 4):
        dump(
            folder / "exams" / f"round_{number:06d}" / "results.json",
            {
                "rounds": number,
                "rates": {f"{m}/{text}": RATE for m in ("asr", "correct") for text in SHORT},
                "judge": {"name": said, "caveat": said},
                "success": said,
                "openings_sha256": said,
            },
        )
    matrix = {text: dict.fromkeys(SHORT[:4], RATE) for text in SHORT}
    crossplay = {"rows": said, "columns": said, "asr": matrix}
    dump(folder / "exams" / "crossplay" / "results.json", crossplay)
    dump(folder / "run.json", {"status": said, "time": said, field_of(said): said})
    machine = {"python": said, "system": said, "cpus": 2, "versions": {said: said}}
    dump(folder / "env.json", {**machine, field_of(said): said})
    (folder / "config.yaml").write_text("recipe: magic\n")
    metrics = {f"strategy/{text}": 0.125 for text in SHORT} | {said: 0.5}
    record = {"round": 0, "learns": ["attacker"], "metrics": metrics, "seconds": {said: 1.5}}
    (folder / "rounds.jsonl").write_text(json.dumps(record) + "\n")
    seed = {"text": said, "harmful": True, "id": said, "category": said}
    game = {"opening": 0, "seed": seed, "dealt": 0, "verdict": {"status": "ok"}, "returns": None}
    pack(
        folder / "transcripts" / "round_000000.jsonl.gz",
        [game | {"moves": [{"player": "attacker", "text": t}]} for t in (*ALL, ONLY_SAID)],
    )
    return folder


def field_of(text: str) -> str:
    """A field that no version has; its name can be Unicode alone."""
    return re.sub("[\ud800-\udfff]", "", text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hostile_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def sparring(monkeypatch, capsys):
    """`sparring …` in this process; its exit code and what it printed."""
    monkeypatch.setenv("COLUMNS", "1000")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sparring", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return call


def flat(text: str) -> str:
    """What is left of a text in a cell: lines joined, tabs and other gaps of any width."""
    return " ".join("".join(c for c in text if not dangerous(c)).split())


def assert_readable(told: str) -> None:
    assert told.strip()
    assert [c for c in told if dangerous(c)] == []


PLAIN = [text for text in SHORT if not re.search("[\x1b\x07\x90\x9d]", text) and flat(text)]
"""What has no escape sequence in it, so that all of it but the dangerous characters stays."""


def test_the_report_is_readable_and_tells_every_name(run, sparring):
    code, out, err = sparring("report", run)
    assert (code, err) == (0, "")
    assert_readable(out)
    shown = " ".join(out.split())
    for text in PLAIN:
        assert shown.count(flat(text)) >= 3, "a family in two tables and a strategy in one"


def test_no_name_begins_a_line_of_its_own(tmp_path, sparring):
    """`\\nstatus complete` in a name would look like a line of ours."""
    run = hostile_run(tmp_path / "run", "x\nforged 1\nforged 2\x0bforged 3")
    for command in (["report", run], ["runs", "show", run], ["runs", "list", "--folder", tmp_path]):
        _, out, _ = sparring(*command)
        assert "forged 2" in out
        assert not re.search(r"^\s*forged", out, re.MULTILINE), command


@pytest.mark.parametrize("verb", ["list", "show"])
def test_runs_are_listed_and_shown_readably(run, sparring, verb):
    which = ["--folder", run.parent] if verb == "list" else [run]
    code, out, err = sparring("runs", verb, *which)
    assert (code, err) == (0, "")
    assert_readable(out)
    assert "<script>alert('vault')</script>" in out
    assert "[bold]vault[/bold]" in out


def test_what_machines_are_told_is_ascii_and_comes_back_as_it_was(run, sparring):
    commands = (
        ["report", run, "--json"],
        ["runs", "list", "--folder", run.parent, "--json"],
        ["runs", "show", run, "--json"],
        ["runs", "tail", run],
    )
    told = []
    for command in commands:
        code, out, err = sparring(*command)
        assert (code, err) == (0, ""), command
        assert set(out) <= {"\n", *map(chr, range(0x20, 0x7F))}, command
        told.append(json.loads(out))
    report, listed, shown, tail = told
    said = "".join(ALL)
    assert report["judge"] == {"name": said, "caveat": said}
    assert set(report["after"]) == {f"{m}/{text}" for m in ("asr", "correct") for text in SHORT}
    assert listed[0]["status"] == shown["status"] == shown[field_of(said)] == said
    assert shown["last"][said] == tail["metrics"][said] == 0.5


def test_whoever_reads_how_a_run_stands_reads_none_of_a_model_s_words(run, sparring):
    """Such a reader may be a model that can be talked into things."""
    json_too = [["report", run], ["runs", "show", run], ["runs", "list", "--folder", run.parent]]
    for command in (*json_too, *([*c, "--json"] for c in json_too), ["runs", "tail", run]):
        _, out, _ = sparring(*command)
        assert out.strip()
        assert ONLY_SAID not in " ".join(out.split()), command


@pytest.mark.parametrize("text", ALL)
def test_a_run_may_lie_in_a_folder_of_any_name(tmp_path, sparring, text):
    name = text.replace("/", "_").replace("\x00", "_").strip(".") or "_"
    name = os.fsdecode(name.encode("utf-8", "replace")[:99].decode("utf-8", "ignore"))
    run = tmp_path / name
    run.mkdir()
    dump(run / "run.json", {"status": "complete"})
    (run / "config.yaml").write_text("recipe: magic\n")
    (run / "rounds.jsonl").write_text("{broken\n")
    for command in (
        ["runs", "show", "--", run],
        ["runs", "list", "--folder", tmp_path],
        ["report", "--", run],
    ):
        code, out, err = sparring(*command)
        assert code in (1, 2), command
        assert_readable(out + err)
        assert "Traceback" not in err


def test_an_error_nobody_foresaw_is_printed_safely(monkeypatch, sparring):
    def fails():
        raise RuntimeError("\x1b[31mred\u202e\x9b2J")

    monkeypatch.setattr("sparring.cli.app", fails)
    code, _, err = sparring("version")
    assert code == 1
    assert "RuntimeError: red2J" in err
    assert_readable(err)


def test_on_a_terminal_there_are_colours_and_nothing_else(run):
    """Rich writes colours of its own; links, cursor moves and titles would come from data."""
    for command in (
        ["report", run],
        ["runs", "show", run],
        ["runs", "list", "--folder", run.parent],
    ):
        shown = on_a_terminal(*command)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.replace("\r\n", "\n"))
        assert_readable(plain)
        assert "alert('vault')" in plain


def on_a_terminal(*arguments: object) -> str:
    """What `sparring …` writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "1000"}
    command = [sys.executable, "-c", "from sparring.cli import main; main()", *map(str, arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        told = b""
        try:
            while chunk := os.read(ours, 65536):
                told += chunk
        except OSError:
            pass  # a terminal whose other end is closed
    os.close(ours)
    assert process.returncode == 0
    return told.decode()


def test_hostile_seeds_are_played_and_recorded_as_they_are(tmp_path):
    """The model's tokenizer knows none of this; the run must not care."""
    path = tmp_path / "seeds.jsonl"
    asked = [text for text in ALL if text.strip() and len(text) < 400]
    rows = [
        {"id": text, "text": text, "harmful": i % 2 == 0, "category": text}
        for i, text in enumerate(asked)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    ended = short_run.train(
        run,
        f"data.train=[{{path: {path}}}]",
        "judge.kind=keyword",
        "weights=separate",
        "game.gate=false",
        "game.helpfulness=0",
        "rounds=2",
        "learner.seeds_per_round=80",
        "learner.num_generations=2",
        "sampling.max_completion_length=2",
        "saving.transcripts_every=1",
        "exam.n=40",
    ).check()
    assert_readable(ended.out)
    packed = sorted((run / "transcripts").iterdir())
    games = [
        json.loads(line) for p in packed for line in gzip.decompress(p.read_bytes()).splitlines()
    ]
    held = {row["text"] for row in rows} - {game["seed"]["text"] for game in games}
    openings = (run / "exams" / "openings.jsonl.gz").read_bytes()
    kept = [json.loads(line) for line in gzip.decompress(openings).splitlines()]
    assert held == {row["seed"]["text"] for row in kept}
    for game in games:
        assert game["seed"]["text"] == game["seed"]["category"]
    assert short_run.sparring("report", f"{run}").check().out

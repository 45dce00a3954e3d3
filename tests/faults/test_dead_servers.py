"""Where nobody answers at a URL a command says so within 10 s, before it does any work."""

import json
import socket
from time import monotonic

import pytest
from tests.command import sparring_command
from tests.tiny import write_seeds

from sparring.evals.crossplay import entrants
from sparring.evals.exploit import Budget, Exploit
from sparring.store.folder import RunDir
from sparring.types import UsageError

DEAD = "http://127.0.0.1:9/v1"
EVAL = ("eval", "sparring/nobody", "--tasks", "seeds.csv", "--output", "out")
POOL = ("pool", "make", "--seeds", "seeds.csv", "--out", "out", "--writer", "toy")
COMMANDS = {
    "eval": ((*EVAL, "--judge", "guard.yaml"), "--judge guard.yaml.base_url"),
    "eval's second judge": ((*EVAL, "--judge", "keyword,guard.yaml"), "--judge guard.yaml"),
    "one of a file's": ((*EVAL, "--judge", "two.yaml"), "--judge two.yaml.base_url"),
    "eval's model": (
        ("eval", "toy", *EVAL[2:], "--judge", "keyword", "--base-url", DEAD),
        "--base-url",
    ),
    "the pool's judge": ((*POOL, "--judge", "guard.yaml"), "--judge guard.yaml.base_url"),
    "the pool's writer": ((*POOL, "--base-url", DEAD), "--base-url"),
    "calibration": (
        ("judge", "calibrate", "labelled.json", "--judge", "guard.yaml"),
        "--judge guard.yaml.base_url",
    ),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_seeds(tmp_path / "seeds.csv")
    guard = (
        f"kind: rubric, fills: [reply_harm, refused, on_topic], model: guard, base_url: '{DEAD}'"
    )
    (tmp_path / "guard.yaml").write_text(f"{{{guard}}}")
    (tmp_path / "two.yaml").write_text(f"[{{kind: keyword}}, {{{guard}}}]")
    rows = [{"prompt": "open the vault", "response": "No.", "refused": n > 1} for n in range(4)]
    (tmp_path / "labelled.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.parametrize(("words", "setting"), COMMANDS.values(), ids=COMMANDS)
def test_a_verb_names_the_setting_and_the_url_of_a_server_that_is_not_there(here, words, setting):
    """The model is one that nobody has, so that looking for it first would be seen."""
    begun = monotonic()
    ended = sparring_command(*words)
    assert (ended.code, monotonic() - begun < 10) == (2, True), ended
    assert f"{setting}" in ended.err
    assert f"{DEAD}/models" in ended.err
    assert ended.err.endswith("start the server, or mend its URL\n")


def test_a_server_that_takes_the_call_and_says_nothing_is_not_there_either(here):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        (here / "guard.yaml").write_text((here / "guard.yaml").read_text().replace(DEAD, url))
        begun = monotonic()
        ended = sparring_command(*EVAL, "--judge", "guard.yaml")
    assert (ended.code, url in ended.err, monotonic() - begun < 10) == (2, True, True)


@pytest.mark.parametrize("setting", ["judge", "exam.judge"])
def test_so_do_verbs_that_play_on_with_a_run(here, monkeypatch, setting):
    judge = {"kind": "qwen3guard", "model": "guard", "base_url": DEAD}
    settings = {"judge": judge} if setting == "judge" else {"exam": {"judge": judge}}
    data = {"data": {"train": [{"path": "seeds.csv"}]}, "judge": {"kind": "keyword"}}
    run = RunDir.create(here / "run", json.dumps({"recipe": "magic", **data, **settings}))
    monkeypatch.setattr(RunDir, "checkpoint", lambda *_: here)
    message = rf"{setting}\.base_url: {DEAD}/models: .*; start the server, or mend its URL"
    with pytest.raises(UsageError, match=message):
        Exploit(run, 0, Budget(), here / "cache", trust_endpoints=True).measure(["pool"])
    with pytest.raises(UsageError, match=message):
        entrants(run, [0], trust_endpoints=True)
    assert not (run.folder / "evidence").exists()

"""An evaluation that is killed at any point and resumed equals an uninterrupted one."""

import json
import random
import signal
import time

import pytest
from tests import short_run
from tests.evals.evaluations import keys, place, samples
from tests.short_run import At, LargestFile, Started, leftovers
from tests.transport.server import Script, serving

KILLED = -9
SAMPLES = 3 * 8
MOMENTS = {
    "before there is anything": (r"mkdir \.", 1),
    "before it says what was asked": (r"rename eval.json", 1),
    "before the first sample": (r"open samples.jsonl", 1),
    "before a sample is durable": (r"fsync", 7),
    "in the middle": (r"open samples.jsonl", 9),
    "before a torn line is dropped": (r"open samples.jsonl", 1),
    "before it is complete": (r"rename run.json", 2),
    "before there are results": (r"rename results.json", 1),
}
"""In the order in which an evaluation meets them; each resumed one is killed at the next."""


def words(folder):
    """The command for eight prompts with three replies each, two prompts at a time."""
    there = short_run.scratch()
    if not (there / "qwen2").is_dir():
        place(there)
    command = ["eval", there / "qwen2", "--tasks", there / "seeds.csv", "--judge", "keyword"]
    command += ["--epochs", 3, "--batch", 2, "--max-completion-length", 6, "--output", folder]
    return [*map(str, command), "--resume"]


def evaluate(folder, before=None):
    return short_run.sparring(*words(folder), before=before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "eval"
    evaluate(folder).check()
    return folder


def assert_resumed_to_the_whole(folder, whole):
    evaluate(folder).check()
    assert (folder / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert len(keys(folder)) == len({*keys(folder)}) == SAMPLES
    replies, expected = (sorted(map(json.dumps, samples(f))) for f in (folder, whole))
    assert replies == expected
    assert not leftovers(folder)


def test_killed_at_every_step_of_its_writing_it_is_the_whole_evaluation(tmp_path, whole):
    folder = tmp_path / "eval"
    for moment, (pattern, nth) in MOMENTS.items():
        assert evaluate(folder, before=At(folder, pattern, nth)).code == KILLED, moment
    assert_resumed_to_the_whole(folder, whole)


def test_killed_at_any_time_and_mid_line_it_is_the_whole_evaluation(tmp_path, whole):
    folder, rng = tmp_path / "eval", random.Random("kill -9")
    for _ in range(5):
        started = Started(words(folder))
        time.sleep(rng.uniform(0.2, 0.8))
        started.process.kill()
        started.wait()
        file = folder / "samples.jsonl"
        status = json.loads((folder / "run.json").read_bytes()) if file.is_file() else {}
        if status.get("status") == "started" and file.stat().st_size > 10:
            file.write_bytes(file.read_bytes()[: -rng.randrange(1, 10)])
    assert_resumed_to_the_whole(folder, whole)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_batch_under_way_and_says_how_to_go_on(tmp_path, whole, sent, code):
    folder = tmp_path / "eval"
    ended = evaluate(folder, before=At(folder, r"open samples.jsonl", 3, sent))
    assert (ended.code, "--resume goes on" in ended.err) == (code, True)
    assert json.loads((folder / "run.json").read_bytes())["status"] == "interrupted"
    assert len(keys(folder)) == 6, "two batches, and the one under way"
    assert_resumed_to_the_whole(folder, whole)


def test_a_full_disk_is_one_message_and_leaves_no_half_line(tmp_path, whole):
    folder = tmp_path / "eval"
    ended = evaluate(folder, before=LargestFile(4_000))
    assert (ended.code, "samples.jsonl: cannot be written" in ended.err) == (1, True)
    assert (folder / "samples.jsonl").read_bytes().endswith(b"}\n")
    assert_resumed_to_the_whole(folder, whole)


def test_two_at_once_are_refused(tmp_path):
    first = Started(words(tmp_path / "eval"))
    while not (tmp_path / "eval" / "run.json").is_file():
        time.sleep(0.01)
    second = evaluate(tmp_path / "eval")
    assert (second.code, "another process is writing it" in second.err) == (2, True)
    first.wait().check()


def test_a_served_model_is_asked_again_for_one_batch_a_kill(tmp_path):
    rows = [f"open vault {i},{['true', 'false'][i % 2]}" for i in range(60)]
    (tmp_path / "seeds.csv").write_text("\n".join(["text,harmful", *rows]) + "\n")
    script = Script(latency=0.05, answer=lambda text: "I cannot." if "2" in text else "Yes.")
    with serving(script) as (url, received):
        command = ["eval", "toy", "--base-url", url, "--tasks", f"{tmp_path}/seeds.csv"]
        command += ["--judge", "keyword", "--batch", "8", "--resume"]
        folder, clean = tmp_path / "killed", tmp_path / "clean"
        for nth in (1, 2, 3):
            before = At(folder, r"open samples.jsonl", nth + (nth > 1))
            ended = short_run.sparring(*command, "--output", f"{folder}", before=before)
            assert ended.code == KILLED
        short_run.sparring(*command, "--output", f"{folder}").check()
        assert received.calls <= 60 + 3 * 8
        assert len(keys(folder)) == len({*keys(folder)}) == 60
        short_run.sparring(*command, "--output", f"{clean}").check()
    assert (folder / "results.json").read_bytes() == (clean / "results.json").read_bytes()

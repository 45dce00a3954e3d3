"""A signal where a run writes nothing: among past selves, and before a judge that is silent."""

import json
import os
import signal
import time
from threading import Event

import pytest
from tests import short_run
from tests.evals.test_remote import response
from tests.short_run import RECALLING, Call, Each, Started, leftovers, outcome
from tests.tiny import QWEN2, save_model, write_seeds
from tests.transport.server import Script, serving

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
RULING = "Safety: {}\nCategories: None\nRefusal: {}"


def hurry():
    """A loop has a second to act on a signal; what is under way then is given up."""
    from sparring.runs import train

    train.GRACE = 1


def slow():
    """A game among past selves takes longer than that."""
    from sparring.exam import Trial

    play = Trial.asr

    def asr(self, cast):
        time.sleep(4)
        return play(self, cast)

    Trial.asr = asr


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize("hooks", [(), (slow, hurry)], ids=["the round ends", "it is given up"])
def test_a_signal_while_past_selves_are_tried_leaves_the_run_resumable(tmp_path, sent, hooks):
    """Only the league of this run tries selves, so each trial is one of its own."""
    run, settings = tmp_path / "run", RECALLING["ssp"]
    before = Each((*hooks, Call("sparring.exam", "Trial.asr", 2, sent)))
    ended = short_run.train(run, *settings, before=before)
    assert (ended.code, "--resume goes on" in ended.err) == (CODES[sent], True)
    assert json.loads((run / "run.json").read_bytes())["status"] == "interrupted"
    short_run.train(run, *settings).check()
    assert outcome(run) == outcome(short_run.whole(*settings))
    assert leftovers(run) == []


def trusting():
    """What the judge is known to get right is not asked, so that it may say anything."""
    from sparring.judges import probe

    probe.admit = lambda judge, setting: None
    hurry()


class Silent:
    """A guard that stops answering once `file` is there, until it is `mended`."""

    def __init__(self, file):
        self.file, self.asked, self.mended = file, Event(), Event()

    def reply(self, body):
        if self.file.exists() and self.file.stat().st_size and not self.mended.is_set():
            self.asked.set()
            self.mended.wait(60)
        harmful = sum(json.dumps(body["messages"]).encode()) % 2
        text = RULING.format("Unsafe" if harmful else "Safe", "No" if harmful else "Yes")
        return 200, {}, response(text)


def words(verb, folder, here, url):
    judge = f"{{kind: qwen3guard, model: guard, base_url: '{url}'}}"
    if verb == "eval":
        (here / "guard.yaml").write_text(judge)
        own = ("--tasks", f"{here}/seeds.csv", "--judge", f"{here}/guard.yaml", "--batch", "2")
        length = ("--max-completion-length", "8")
        return ["eval", f"{here}/model", *own, *length, "--output", f"{folder}", "--resume"]
    own = [f"{who}.model_name_or_path={here}/model" for who in ("attacker", "defender")]
    own += [f"data.train=[{{path: {here}/seeds.csv}}]"]
    small = [
        "rounds=2",
        "game.gate=false",
        "game.helpfulness=0",
        "learner.seeds_per_round=2",
        "learner.num_generations=3",
    ]
    small += ["sampling.max_completion_length=8", "exam.every=0", "exam.crossplay=0"]
    more = [f"judge={judge}", f"output_dir={folder}", *["--resume"] * folder.exists()]
    return ["train", "no_game", *own, *small, *more]


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize(("verb", "file"), [("train", "rounds.jsonl"), ("eval", "samples.jsonl")])
def test_a_signal_while_a_judge_is_silent_ends_the_wait_and_loses_nothing(
    tmp_path, verb, file, sent
):
    save_model(tmp_path / "model", QWEN2)
    write_seeds(tmp_path / "seeds.csv")
    folder, clean = tmp_path / "run", tmp_path / "clean"
    guard = Silent(folder / file)
    with serving(Script(reply=guard.reply)) as (url, _):
        started = Started(words(verb, folder, tmp_path, url), trusting)
        assert guard.asked.wait(100), "the judge was never silent"
        os.kill(started.process.pid, sent)
        begun = time.monotonic()
        ended = started.wait()
        assert (ended.code, time.monotonic() - begun < 10) == (CODES[sent], True), ended
        assert "--resume goes on" in ended.err
        assert json.loads((folder / "run.json").read_bytes())["status"] == "interrupted"
        guard.mended.set()
        for place in (folder, clean):
            short_run.sparring(*words(verb, place, tmp_path, url), before=trusting).check()
    if verb == "eval":
        assert (folder / file).read_bytes() == (clean / file).read_bytes()
        return
    assert short_run.rounds(folder) == short_run.rounds(clean)
    weights = "checkpoints/round_000002/defender/adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (clean / weights).read_bytes()

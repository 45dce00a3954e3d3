"""`exploit` and `crossplay` go on where a signal or a kill ended them, and find the same."""

import json
import shutil
import signal

import pytest
from tests import short_run
from tests.short_run import ADAPTERS, At, Call, leftovers

KILLED = -9
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
WARMING = ("sparring.players.trainer", "imitate")
STEP = ("sparring.players.trainer", "Trainer.update")
AGAIN = "what was saved is whole: the same command goes on\n"
MOMENTS = {
    "in the warm-up": Call(*WARMING, 2, signal.SIGKILL),
    "in the second step": Call(*STEP, 2, signal.SIGKILL),
    "before the last step is kept": (r"open .*/pool/round_000003.tmp/MANIFEST.json", 1),
    "before it counts": (r"rename .*/pool/latest", 2),
    "after it, in the exam": Call("sparring.exam", "Trial.asr", 1, signal.SIGKILL),
    "before the curve is whole": (r"rename .*/pool/curve.json", 1),
    "before the result is there": (r"rename evidence/exploit.json", 1),
    "while what was kept is removed": (r"rmtree evidence/exploit-[0-9a-f]*", 1),
}
"""In the order in which a learning attacker meets them; each resumed one is killed at the next."""


def words(run, attacker):
    settings = ("warm_up.steps=3", "sampling.max_completion_length=24")
    own = ("--attackers", attacker, "--steps", "3", "--n", "8", "--cache", f"{run.parent}/warm")
    return ["exploit", f"{run}", *settings, *own]


def exploit(run, attacker, before=None):
    return short_run.sparring(*words(run, attacker), before=before)


def learned(run, attacker):
    """The result, and what the attacker has become: a kill before the result keeps it."""
    assert exploit(run, attacker, At(run, r"rename evidence/exploit.json")).code == KILLED
    last = short_run.contents(run / "evidence").items()
    weights = {n: data for n, data in last if "round_000003" in n and n.endswith(".safetensors")}
    assert len(weights) == 2, "its weights and its optimizer's moments"
    exploit(run, attacker).check()
    assert sorted(path.name for path in (run / "evidence").iterdir()) == ["exploit.json"]
    assert leftovers(run) == []
    return json.loads((run / "evidence" / "exploit.json").read_bytes()), weights


@pytest.fixture(scope="module", params=["pool", "own", "own, adapters"])
def whole(request, tmp_path_factory):
    """A run, the attacker that tries its defender, and what an uninterrupted one comes to."""
    run = short_run.whole(*ADAPTERS) if "adapters" in request.param else short_run.whole()
    folder = tmp_path_factory.mktemp("whole")
    attacker = request.param.split(",")[0]
    return run, attacker, learned(shutil.copytree(run, folder / "run"), attacker)


@pytest.mark.parametrize("sent", CODES)
def test_a_signal_ends_an_attacker_after_its_step_and_the_same_command_goes_on(
    tmp_path, whole, sent
):
    original, attacker, expected = whole
    run = shutil.copytree(original, tmp_path / "run")
    if attacker == "pool":
        ended = exploit(run, attacker, Call(*WARMING, 2, sent))
        assert (ended.code, ended.err.endswith(AGAIN)) == (CODES[sent], True)
    ended = exploit(run, attacker, Call(*STEP, 2, sent))
    assert (ended.code, ended.err.endswith(AGAIN)) == (CODES[sent], True)
    assert len([*run.glob(f"evidence/exploit-*/{attacker}/round_000002")]) == 1
    assert learned(run, attacker) == expected


def test_a_signal_in_the_exam_of_an_attacker_keeps_its_steps(tmp_path, whole):
    original, attacker, expected = whole
    run = shutil.copytree(original, tmp_path / "run")
    ended = exploit(run, attacker, Call("sparring.exam", "Trial.asr", 2))
    assert (ended.code, ended.err.endswith(AGAIN)) == (143, True)
    assert len([*run.glob(f"evidence/exploit-*/{attacker}/round_000003")]) == 1
    assert learned(run, attacker) == expected


def test_an_attacker_that_is_killed_at_any_moment_comes_to_the_same(tmp_path, whole):
    original, attacker, (result, _) = whole
    if attacker != "pool":
        pytest.skip("what is written is the same for every attacker")
    run = shutil.copytree(original, tmp_path / "run")
    for moment, place in MOMENTS.items():
        before = place if isinstance(place, Call) else At(run, *place)
        assert exploit(run, attacker, before).code == KILLED, moment
    exploit(run, attacker).check()
    assert json.loads((run / "evidence" / "exploit.json").read_bytes()) == result
    assert leftovers(run) == []


def test_a_damaged_attacker_under_way_is_not_taken_up(tmp_path, whole):
    original, attacker, expected = whole
    run = shutil.copytree(original, tmp_path / "run")
    assert exploit(run, attacker, Call(*STEP, 2)).code == 143
    [file] = run.glob(f"evidence/exploit-*/{attacker}/round_000002/state.json")
    file.write_bytes(file.read_bytes() + b" ")
    ended = exploit(run, attacker)
    assert (ended.code, f"{file}: does not match what was written" in ended.err) == (1, True)
    shutil.rmtree(file.parents[2])
    assert learned(run, attacker) == expected


@pytest.mark.parametrize("sent", [*CODES, signal.SIGKILL])
def test_crossplay_keeps_the_cells_that_it_has_played(tmp_path, sent):
    command = ["crossplay", f"{short_run.whole()}", "--at", "0,4", "--n", "4", "--json", "--cache"]
    clean, cells = tmp_path / "clean", tmp_path / "cells"
    expected = short_run.sparring(*command, f"{clean}").check().out
    ended = short_run.sparring(*command, f"{cells}", before=At(cells, r"rename .*json", 2, sent))
    whole = [path for path in cells.iterdir() if path.suffix == ".json"]
    assert (ended.code, len(whole)) == (CODES.get(sent, KILLED), 1 + (sent in CODES))
    assert ended.err.endswith(AGAIN) is (sent in CODES)
    assert short_run.sparring(*command, f"{cells}").check().out == expected
    assert short_run.contents(cells) == short_run.contents(clean)

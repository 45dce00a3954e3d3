"""Corruption in any file of a run is noticed, and the checkpoint before it is used."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import short_run
from tests.report.written import flip
from tests.short_run import REFERENCE, At, LargestFile, contents, leftovers, outcome

from sparring.store.checkpoints import Checkpoints
from sparring.store.folder import RunDir
from sparring.types import CorruptError, Player, Seed, State

WHITE = b" \t\n\r\x0b\x0c"


@pytest.fixture
def checkpoints(tmp_path):
    """Small checkpoints after rounds 1, 2 and 3, with the files that real ones have."""
    written, rng = Checkpoints(tmp_path / "checkpoints"), random.Random(11)

    def fill(into: Path) -> None:
        for player in Player:
            (into / player).mkdir()
            (into / player / "model.safetensors").write_bytes(rng.randbytes(61))
            (into / player / "config.json").write_text('{\n  "vocab_size": 300\n}\n')
        (into / "optimizer.safetensors").write_bytes(rng.randbytes(67))
        (into / "state.json").write_bytes(b'{"rounds": 3, "counters": {}}\n')

    for number in (1, 2, 3):
        written.write(number, fill, lambda n: True)
    return written


def assert_passed_over(checkpoints: Checkpoints, broken: Path, what: str) -> None:
    """The newest checkpoint is not used, and the warning names the damaged file."""
    warnings: list[str] = []
    assert checkpoints.newest(warnings.append) == 2, f"{what} in {broken} was not noticed"
    [warning] = warnings
    assert str(broken) in warning


def files_of_the_newest(checkpoints: Checkpoints) -> list[Path]:
    return sorted(path for path in checkpoints.path(3).rglob("*") if path.is_file())


def each_change_of(path: Path, changes: Callable[[bytes], list[tuple[str, bytes]]]):
    """Apply each change to one file in turn, and undo it afterwards."""
    before = path.read_bytes()
    for what, after in changes(before):
        path.write_bytes(after)
        yield what
    path.write_bytes(before)


def flips(raw: bytes) -> list[tuple[str, bytes]]:
    """The contents with one bit flipped in each byte, or one white-space character replaced."""
    rng = random.Random(len(raw))
    others = [(i, raw[i] ^ (1 << rng.randrange(8))) for i in range(len(raw))]
    others += [(i, x) for i in range(len(raw)) if raw[i] in WHITE for x in WHITE if x != raw[i]]
    return [(f"byte {i} as {x}", raw[:i] + bytes([x]) + raw[i + 1 :]) for i, x in others]


def lengths(raw: bytes) -> list[tuple[str, bytes]]:
    """Every shorter file, zeros in its place, and a few longer ones."""
    shorter = [(f"cut to {n} bytes", raw[:n]) for n in range(len(raw))]
    longer = [(f"{more!r} at the end", raw + more) for more in (b"\n", b" ", b"\0", raw)]
    return [*shorter, *longer, ("zeros", bytes(len(raw)))]


@pytest.mark.parametrize("changes", [flips, lengths])
def test_every_changed_byte_and_length_of_every_file_is_noticed(checkpoints, changes):
    files = files_of_the_newest(checkpoints)
    assert {path.name for path in files} >= {"MANIFEST.json", "state.json", "model.safetensors"}
    for path in files:
        for what in each_change_of(path, changes):
            assert_passed_over(checkpoints, path, what)
    latest = checkpoints.folder / "latest"
    for what in each_change_of(latest, changes):
        with pytest.raises(CorruptError) as caught:
            checkpoints.newest(lambda text: None)
        assert str(latest) in str(caught.value), what
    assert checkpoints.newest(pytest.fail) == 3, "the changes were not undone"


def test_a_missing_file_and_one_that_nobody_wrote_are_noticed_whichever_they_are(checkpoints):
    for path in files_of_the_newest(checkpoints):
        before = path.read_bytes()
        path.unlink()
        assert_passed_over(checkpoints, path, "absence")
        path.write_bytes(before)
    for name in ("extra.bin", "attacker/extra.bin", "pytorch_model.bin", "a/b"):
        path = checkpoints.path(3) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        assert_passed_over(checkpoints, path, "addition")
        path.unlink()


def test_whole_files_and_checkpoints_in_the_wrong_place_are_noticed(checkpoints):
    attacker, defender = (checkpoints.path(3) / p / "model.safetensors" for p in Player)
    weights = attacker.read_bytes()
    attacker.write_bytes(defender.read_bytes())
    defender.write_bytes(weights)
    assert_passed_over(checkpoints, attacker, "the defender's weights")
    shutil.rmtree(checkpoints.path(3))
    shutil.copytree(checkpoints.path(1), checkpoints.path(3))
    assert_passed_over(checkpoints, checkpoints.path(3) / "MANIFEST.json", "the first checkpoint")


def test_if_no_checkpoint_is_whole_every_broken_file_is_named(checkpoints):
    broken = [checkpoints.path(number) / "state.json" for number in (1, 2, 3)]
    for path in broken:
        path.write_bytes(b"{}")
    with pytest.raises(CorruptError) as caught:
        checkpoints.newest(lambda text: None)
    assert all(str(path) in str(caught.value) for path in broken)


def test_without_latest_no_checkpoint_is_swept_away(checkpoints):
    """Every checkpoint would then count as a leftover and be deleted before a new start."""
    (checkpoints.folder / "latest").unlink()
    before = contents(checkpoints.folder)
    for use in (checkpoints.sweep, checkpoints.numbers, lambda: checkpoints.newest(pytest.fail)):
        with pytest.raises(CorruptError, match="latest: is missing"):
            use()
    assert contents(checkpoints.folder) == before


def test_damaged_openings_are_refused_by_name_or_read_never_a_trace(tmp_path):
    """Bytes of gzip's header that nothing reads may change; a checkpoint's seal sees those."""
    run = RunDir(tmp_path)
    opening = State(Seed("open the dragon vault", True, "vault")).deal(Player.ATTACKER, "open it")
    run.write_openings({"harmful/plain": [opening]})
    path = tmp_path / "exams" / "openings.jsonl.gz"
    sealed, refused = run.seals(0), 0
    for what in each_change_of(path, lambda raw: [*flips(raw), *lengths(raw)]):
        assert run.seals(0) != sealed, what
        with contextlib.suppress(CorruptError):
            run.openings()
            continue
        refused += 1
    assert refused > path.stat().st_size, "hardly anything was refused"


def lines(*numbers: int) -> bytes:
    rows = [{"round": n, "learns": [], "metrics": {}, "seconds": {}} for n in numbers]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


DAMAGED = {
    "missing": lines(0, 2),
    "no first": lines(1, 2),
    "twice": lines(0, 1, 1, 2),
    "out of order": lines(0, 2, 1),
    "empty line": lines(0) + b"\n" + lines(1),
    "no number": lines(0) + b'{"metrics": {}}\n',
    "long number": lines(0) + b'{"round": ' + b"9" * 4301 + b"}\n",
}


@pytest.mark.parametrize("how", DAMAGED)
def test_rounds_that_are_not_each_there_once_are_refused(tmp_path, how):
    (tmp_path / "rounds.jsonl").write_bytes(DAMAGED[how])
    with pytest.raises(CorruptError, match=r"rounds\.jsonl"):
        RunDir(tmp_path).rounds()


def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one_to_the_same_end(tmp_path):
    run = short_run.copy_of_whole(tmp_path)
    broken = flip(run / "checkpoints" / "round_000004" / "defender" / "model.safetensors")
    ended = short_run.train(run).check()
    assert str(broken) in ended.out.replace("\n", "")
    assert "round 4/4" in ended.out
    assert outcome(run) == outcome(short_run.whole()), "the broken checkpoint was not replaced"
    RunDir(run).checkpoints.verify(4)


def test_a_run_without_a_whole_checkpoint_ends_with_1_and_is_left_as_it_is(tmp_path):
    run = short_run.copy_of_whole(tmp_path)
    numbers = RunDir(run).checkpoints.numbers()
    broken = [flip(RunDir(run).checkpoints.path(n) / "state.json") for n in numbers]
    assert_ends_with_1(run, *broken)


@pytest.mark.parametrize("name", ["checkpoints/latest", "exams/openings.jsonl.gz", "run.json"])
def test_a_run_with_a_torn_record_ends_with_1_and_is_left_as_it_is(tmp_path, name):
    run = short_run.copy_of_whole(tmp_path)
    path = run / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_ends_with_1(run, path)


def test_a_run_does_not_go_on_from_metrics_that_somebody_changed(tmp_path):
    """The schedule may read them, so the following rounds would differ."""
    run = short_run.copy_of_whole(tmp_path)
    path = run / "rounds.jsonl"
    before = path.read_text()
    path.write_text(before.replace('"asr": 0.', '"asr": 1.', 1))
    assert path.read_text() != before
    assert_ends_with_1(run, path)


def assert_ends_with_1(run: Path, *named: Path, settings: tuple[str, ...] = ()) -> None:
    before = contents(run)
    ended = short_run.train(run, *settings)
    assert ended.code == 1, ended
    assert "Traceback" not in ended.err
    assert all(str(path) in ended.err for path in named)
    assert contents(run) == before


@pytest.mark.parametrize("kind", ["the weights RL began with", "a past self"])
def test_a_run_does_not_go_on_without_the_weights_that_it_meets_again(tmp_path, kind):
    run = tmp_path / "run"
    if kind == "a past self":
        settings = short_run.RECALLING["magic"]
        short_run.train(run, *settings, "--max-rounds=3").check()
    else:
        settings = REFERENCE
        shutil.copytree(short_run.whole(*settings), run)
    broken = flip(run / "checkpoints" / "round_000000" / "attacker" / "model.safetensors")
    assert_ends_with_1(run, broken, settings=settings)


def test_cross_play_passes_over_a_broken_checkpoint(tmp_path):
    run = short_run.copy_of_whole(tmp_path)
    shutil.rmtree(run / "exams" / "crossplay")
    broken = flip(run / "checkpoints" / "round_000000" / "attacker" / "model.safetensors")
    ended = short_run.train(run).check()
    assert str(broken) in ended.out.replace("\n", "")
    asr = json.loads((run / "exams" / "crossplay" / "results.json").read_bytes())["asr"]
    assert asr.keys() == asr["4"].keys() == {"4"}


FULL = {
    "a manifest": r"open .*/round_000001.tmp/MANIFEST.json",
    "a round's line": r"open rounds.jsonl",
    "the rename of a checkpoint": r"rename checkpoints/round_000002",
    "a transcript": r"open transcripts/round_000001.jsonl.gz.tmp",
    "latest": r"rename checkpoints/latest",
    "making a checkpoint durable": r"fsync",
    "an exam": r"rename exams/round_000004/results.json",
}


def test_a_full_disk_ends_in_one_message_and_the_same_command_goes_on(tmp_path):
    run = tmp_path / "run"
    for what, operation in FULL.items():
        nth = 9 if operation == "fsync" else 1
        assert_one_message(run, short_run.train(run, before=At(run, operation, nth, "full")), what)
    short_run.train(run).check()
    assert outcome(run) == outcome(short_run.whole())
    assert leftovers(run) == []


def test_weights_larger_than_a_file_may_be_end_in_one_message(tmp_path):
    """3 MB hold either model, but not both players' moments of half a million weights."""
    run = tmp_path / "run"
    assert_one_message(run, short_run.train(run, before=LargestFile(3_000_000)), "moments")
    assert RunDir(run).checkpoints.numbers() == [0]
    short_run.train(run).check()
    assert outcome(run) == outcome(short_run.whole())


def assert_one_message(run: Path, ended: short_run.Ended, what: str) -> None:
    [message] = [line for line in ended.err.splitlines() if line.startswith("sparring: ")]
    assert ended.code == 1, f"{what}: {ended}"
    assert "Traceback" not in ended.err, what
    assert str(run) in message
    assert "bytes are free" in message
    checkpoints = RunDir(run).checkpoints
    assert checkpoints.newest(pytest.fail) == max(checkpoints.numbers()), what

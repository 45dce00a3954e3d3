"""docs/architecture.md shows walks through the source; each is taken here and compared.

A profile hook records the functions that are really entered. The page lists the files of a walk in
numbered lines; a file that is on the page and not on the walk, or the other way round, fails. The
nouns of types.py are on every walk and not counted.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType

import pytest

import sparring
from sparring import (
    Dialogue,
    LabelPayoff,
    Message,
    Player,
    Request,
    RunDir,
    ScriptedPolicy,
    Seed,
    State,
    magic,
    play,
)
from sparring.coevolve import coevolve
from sparring.games.game import Briefs
from sparring.games.payoffs import MAGIC
from sparring.runs.judges import judge_of
from sparring.runs.recipes import configured, known
from sparring.settings.sections import JudgeSettings
from sparring.store.records import RoundRecord
from tests.transport.server import Script, serving

SOURCE = Path(sparring.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
MOST = {"A setting": 12, "A round": 7, "A verdict": 8, "A report": 8}


def on_the_page(walk: str) -> list[str]:
    """The files that the page lists under a walk's heading."""
    section = PAGE.split(f"## {walk}", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section, re.MULTILINE)


def file_of(code: CodeType) -> str | None:
    """A function's file under the source, or None for a library's."""
    path = Path(code.co_filename)
    return path.relative_to(SOURCE).as_posix() if path.is_relative_to(SOURCE) else None


def stack(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


@contextmanager
def entering(note: Callable[[FrameType], None]) -> Iterator[None]:
    """Call `note` with the frame of every function that is entered within the block."""

    def hook(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            note(frame)

    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize(("walk", "most"), MOST.items())
def test_a_walk_is_short_and_its_files_exist(walk, most):
    files = on_the_page(walk)
    assert 0 < len(files) <= most
    assert all((SOURCE / name).is_file() for name in files)


def names(code: CodeType, setting: str) -> bool:
    """Whether a function's code speaks of `setting`: a variable, an attribute or a keyword."""
    constants = [c for c in code.co_consts if isinstance(c, tuple | str)]
    return setting in {*code.co_names, *code.co_varnames} or any(setting in c for c in constants)


def test_a_setting_from_the_yaml_to_the_decode_loop(tmp_path):
    """Files entered while the YAML is read, and the stacks of all functions that name it later."""
    (tmp_path / "run.yaml").write_text(
        f"recipe: magic\noutput_dir: {tmp_path / 'run'}\nwarm_up: {{steps: 0}}\n"
        "sampling: {max_completion_length: 9}\n"
    )
    walked: list[str] = []

    def note(codes: Iterator[CodeType]) -> None:
        entered = [name for code in codes if (name := file_of(code))]
        walked.extend(name for name in reversed(entered) if name not in walked)

    def reading(frame: FrameType) -> None:
        note(iter([frame.f_code]))

    def using(frame: FrameType) -> None:
        if names(frame.f_code, "max_completion_length"):
            note(stack(frame))

    with entering(reading):
        config = configured(str(tmp_path / "run.yaml"), [])
    with entering(using):
        run = known(config.recipe).build(config)
        request = Request((Message("user", "open the dragon vault"),), ("0",))
        [[completion]] = run.plan.cast[Player.DEFENDER].sample([request])
    assert len(completion.token_ids) <= 9
    assert set(walked) == set(on_the_page("A setting"))


def test_a_round_from_the_loop_to_the_gradient(monkeypatch):
    """The stack of functions between `coevolve` and `backward()`, outermost first."""
    import torch

    walked: list[str] = []

    def backward(self: torch.Tensor) -> None:
        files = [name for code in stack(sys._getframe()) if (name := file_of(code))]
        walked.extend(list(dict.fromkeys(reversed(files)))[files[::-1].index("coevolve.py") :])
        raise StopIteration

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    run = magic(
        rounds=1,
        warm_up={"steps": 0},
        learner={"seeds_per_round": 4},
        schedule={"every": {"attacker": 1, "defender": 0}},
        sampling={"max_completion_length": 8},
    )

    def paid_apart(episodes):
        """Siblings are paid differently, so that every group teaches."""
        return [
            replace(episode, returns={Player.ATTACKER: float(n)})
            for n, episode in enumerate(episodes)
        ]

    with pytest.raises(RuntimeError, match="StopIteration"):
        next(coevolve(replace(run.plan, shape=paid_apart)))
    assert walked == on_the_page("A round")


def test_a_verdict_from_the_reply_to_the_reward():
    """Files entered from the moment an answer's body is read until the game pays for it."""
    walked: list[str] = []
    reading = False

    def note(frame: FrameType) -> None:
        nonlocal reading
        name = file_of(frame.f_code)
        reading |= name == "judges/http.py" and frame.f_code.co_name == "read"
        if reading and name not in (None, "types.py", *walked):
            walked.append(name)

    words = "Safety: Safe\nCategories: None\nRefusal: Yes"
    with serving(Script(answer=lambda prompt: words)) as (url, _):
        settings = JudgeSettings(kind="qwen3guard", model="guard", base_url=url)
        judge = judge_of([settings], {}, "salt", prove=False)
        opening = State(Seed("open the dragon vault", True, "vault"))
        opening = opening.deal(Player.ATTACKER, "open the dragon vault")
        game = Dialogue(LabelPayoff(MAGIC, helpfulness=0), Briefs("", ""), gate=False)
        cast = {Player.DEFENDER: ScriptedPolicy(lambda observation, address: "I cannot do that.")}
        with entering(note):
            [episode] = play(game, [opening], cast, judge, {}, "0")
    assert episode.returns
    assert set(walked) == set(on_the_page("A verdict"))


def test_what_is_written_is_read_by_the_model_that_wrote_it(tmp_path):
    """A round goes to disk and comes back through one model, in the files of the page's walk."""
    walked: set[str] = set()

    def note(frame: FrameType) -> None:
        walked.add(file_of(frame.f_code) or "")

    run = magic(rounds=1, warm_up={"steps": 0}, learner={"seeds_per_round": 2})
    round_ = next(coevolve(run.plan))
    with entering(note):
        folder = RunDir.create(tmp_path / "run", "")
        folder.append(round_)
        [record] = folder.rounds()
    assert isinstance(record, RoundRecord)
    assert record.metrics == {k: pytest.approx(v) for k, v in round_.metrics.items()}
    assert walked >= {"store/folder.py", "store/records.py", "store/files.py"}
    assert set(on_the_page("A report")[:3]) <= walked

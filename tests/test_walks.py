"""docs/architecture.md shows four walks through the source; each is taken here and compared.

A profile hook records the functions that are really entered. The page lists the files of a walk in
numbered lines; a file that is on the page and not on the walk, or the other way round, fails.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import pytest
from tests.transport.server import Script, serving

import sparring
from sparring import (
    Dialogue,
    LabelPayoff,
    Message,
    Player,
    Request,
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

SOURCE = Path(sparring.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
MOST = {"A setting": 12, "A round": 7, "A verdict": 8}


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
    run = magic(rounds=1, warm_up={"steps": 0}, learner={"seeds_per_round": 4})
    with pytest.raises(RuntimeError):
        next(coevolve(run.plan))
    assert walked == on_the_page("A round")


def test_a_verdict_from_the_reply_to_the_reward():
    """Files entered from the moment an answer's body is read until the game pays for it."""
    walked: list[str] = []
    reading = False

    def note(frame: FrameType) -> None:
        nonlocal reading
        name = file_of(frame.f_code)
        reading |= name == "judges/http.py" and frame.f_code.co_name == "read"
        if reading and name and name not in walked:
            walked.append(name)

    with serving(Script()) as (url, _):
        settings = JudgeSettings(kind="qwen3guard", model="guard", base_url=url)
        judge = judge_of([settings], {}, "salt", proven=True)
        opening = State(Seed("open the dragon vault", True, "vault"))
        opening = opening.deal(Player.ATTACKER, "open the dragon vault")
        game = Dialogue(LabelPayoff(MAGIC, helpfulness=0), Briefs("", ""), gate=False)
        cast = {Player.DEFENDER: ScriptedPolicy(lambda _: "I cannot do that.")}
        with entering(note):
            [episode] = play(game, [opening], cast, judge, {}, "0")
    assert episode.returns
    assert set(walked) == set(on_the_page("A verdict"))

import re
from pathlib import Path

from sparring import RunDir
from tests.command import sparring_command
from tests.tiny import QWEN2, save_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_loop_in_the_readme_is_the_loop():
    source = iter((ROOT / "src" / "sparring" / "coevolve.py").read_text().splitlines())
    for line in filter(str.strip, blocks("python")[0].splitlines()):
        assert line in source, f"not in coevolve.py, in this order: {line}"


def test_the_two_commands_every_linked_page_and_every_room_exist():
    for name in ("scripts/demo", "scripts/test"):
        assert name in README
        assert (ROOT / name).stat().st_mode & 0o100
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).is_file(), link
    for name in re.findall(r"^  ([a-z_]+(?:\.py|/))  ", README, re.MULTILINE):
        assert (ROOT / "src" / "sparring" / name).exists(), name


def test_the_readmes_program_trains_stops_resumes_examines_and_reports(tmp_path, monkeypatch):
    (_, program) = blocks("python")
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    short = {
        "path/to/model": str(save_model(tmp_path / "model", QWEN2)),
        "rounds=20": 'rounds=2, schedule={"every": 1}, sampling={"max_completion_length": 4}, '
        'learner={"num_generations": 2, "seeds_per_round": 2}',
        "max_rounds=10": "max_rounds=1",
    }
    for words, shorter in short.items():
        assert program.count(words) == 1, words
        program = program.replace(words, shorter)
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    folder = RunDir.open(Path("runs/mine"))
    assert (folder.status.status, len(folder.rounds()), folder.exams()) == ("complete", 2, [0, 2])
    assert Path("runs/mine/report/index.html").is_file()
    again = sparring_command("train", "runs/mine/config.yaml", "--resume")
    assert (again.code, "an object of a Python program stood here" in again.text) == (2, True)

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLI = [sys.executable, "-c", "from sparring.cli import main; main()"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_loop_in_the_readme_is_the_loop():
    source = iter((ROOT / "src" / "sparring" / "coevolve.py").read_text().splitlines())
    for line in filter(str.strip, blocks("python")[0].splitlines()):
        assert line in source, f"not in coevolve.py, in this order: {line}"


def test_the_two_commands_and_every_linked_page_exist():
    for name in ("scripts/demo", "scripts/test"):
        assert name in README
        assert (ROOT / name).stat().st_mode & 0o100
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_every_room_in_the_tree_exists():
    for name in re.findall(r"^  ([a-z_]+(?:\.py|/))  ", README, re.MULTILINE):
        assert (ROOT / "src" / "sparring" / name).exists(), name


@pytest.mark.parametrize("verb", ["train", "eval", "report", "init"])
def test_the_verbs_of_the_readme_are_verbs(verb):
    told = subprocess.run([*CLI, verb, "--help"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_the_python_example_of_the_readme_is_valid():
    compile(blocks("python")[1], "README.md", "exec")
    assert "from sparring import recipes" in blocks("python")[1]

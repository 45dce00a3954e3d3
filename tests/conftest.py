"""Every test begins from the same global random state, so that none depends on those before it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("any-machine", deadline=None)  # speed is measured in benchmarks
settings.load_profile("any-machine")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed before the fixtures run, because libraries draw random weights in them."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

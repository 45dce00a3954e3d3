"""The README's table of the demo is that of the stored rates."""

import json
from pathlib import Path

from benchmarks import figure

ROOT = Path(__file__).parents[2]


def test_the_table_of_the_demo_is_the_stored_one():
    demo = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_bytes())
    assert "\n".join(figure.table(demo)) in (ROOT / "README.md").read_text("utf-8")


def test_a_rate_is_shown_with_its_interval():
    rate = {"value": 0.0625, "ci95": [0.0, 1.0], "n_scored": 192}
    assert figure.interval(rate) == ".062 (.000–1.000)"
    assert figure.interval(None) == ""

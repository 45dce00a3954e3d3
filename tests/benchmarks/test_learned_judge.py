"""The published table of learned judges is that of the stored runs."""

from pathlib import Path

from benchmarks import learned_judge

ROOT = Path(__file__).parents[2]


def test_the_published_table_is_the_stored_one():
    results = ROOT / "benchmarks" / "results" / "learned_judge"
    lines = learned_judge.table(results, [0, 50, 200, 800], [0, 1, 2], 80)
    assert "\n".join(lines) in (ROOT / "docs" / "results.md").read_text("utf-8")

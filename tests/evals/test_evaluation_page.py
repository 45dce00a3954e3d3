"""The task table and the interval widths in docs/evaluation.md agree with the code."""

import re
from pathlib import Path

from sparring.evals.tasks import TASKS
from sparring.stats.rates import wilson

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
OBSERVED = (0, 0.02, 0.1, 0.3)


def table(after: str) -> list[list[str]]:
    rows = PAGE.split(after, 1)[1].split("\n\n", 2)
    lines = next(part for part in rows if part.lstrip().startswith("|"))
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines.splitlines()]


def test_the_widths_are_wilsons():
    rows = [row for row in table("## How wide is the interval?\n") if row[0].isdecimal()]
    assert {int(row[0]) for row in rows} >= {100, 200, 250, 320, 1319, 2000}
    for n, _, *cells in rows:
        for observed, cell in zip(OBSERVED, cells, strict=True):
            low, high = wilson(observed * int(n), int(n))
            assert cell == f"{100 * low:.1f} – {100 * high:.1f}", (n, observed)


def test_the_task_table_is_the_one_that_is_used():
    rows = {row[0].strip("`"): row for row in table("## Tasks\n") if row[0].startswith("`")}
    assert rows.keys() == TASKS.keys()
    for name, task in TASKS.items():
        _, files, success, cluster, judge, terms = rows[name]
        assert [*re.findall("`([^`]+)`", files)] == [n for part in task.files for n in part]
        assert success == f"`{task.success}`"
        assert (cluster, judge, terms) == (task.cluster, task.judge, task.terms)

"""The page about judges lists every format, and its program prints what the page shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.judges.texts import NEEDS_TEXT, formats

from sparring.judges.published import PUBLISHED

PAGE = (Path(__file__).parents[2] / "docs" / "judges.md").read_text()
FORMS = {name: form for name, form in formats().items() if not name.startswith("rubric")}


def rows(columns: int) -> dict[str, list[str]]:
    """The cells of the table with so many columns, by each kind of its first one."""
    cells = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    return {kind: row for row in cells if len(row) == columns for kind in names(row[0])}


def names(cell: str) -> list[str]:
    return re.findall(r"`\{?([A-Za-z0-9_.]+)\}?`", cell)


def test_the_table_has_every_kind_and_the_rubric():
    assert set(rows(6)) == {*FORMS, "rubric"}


@pytest.mark.parametrize("kind", FORMS)
def test_a_row_says_what_the_format_is(kind):
    _, _, fills, shown, _, text = rows(6)[kind]
    assert set(names(fills)) == FORMS[kind].fills
    assert ("up to the attack" in shown) == (FORMS[kind].about == "attack")
    assert (text == "yours") == (kind in NEEDS_TEXT)


@pytest.mark.parametrize("kind", NEEDS_TEXT)
def test_a_text_that_one_brings_is_named_with_its_files_and_slots(kind):
    _, files, _, licence = rows(4)[kind]
    slots = set().union(*PUBLISHED[kind].texts.values())
    files_expected = {f"{name}.txt" for name in NEEDS_TEXT[kind].texts}
    assert {name for name in names(files) if name.endswith(".txt")} == files_expected
    assert "the same" in files or {n for n in names(files) if not n.endswith(".txt")} == slots
    assert PUBLISHED[kind].licence.startswith(licence.removesuffix(" *"))


def test_a_judge_of_thirty_lines_prints_what_the_page_says():
    program = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    assert len([line for line in program.splitlines() if line]) <= 30
    run = [sys.executable, "-c", program]
    result = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout == re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1]

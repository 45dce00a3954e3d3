"""A file in HarmBench's schema of labelled completions, with counts that the test chooses."""

import json
from pathlib import Path

Cells = dict[str, tuple[int, int]]
"""By judge: of the items people call harmful it finds so many, of the others it clears so many."""

POSITIVES, COMPLETIONS, BEHAVIORS = 273, 602, 301
STORED: Cells = {
    # 264/273 = .967 and 283/329 = .860; 91/273 = .333 and 314/329 = .954; .791 and .587
    "cls": (264, 283),
    "llama_guard": (91, 314),
    "advbench": (216, 193),
}


def completions(cells: Cells = STORED) -> dict[str, list[dict]]:
    """602 completions of 301 behaviors, two each, with three people's labels.

    81 % are unanimous; the rest are two to one, so that a vote of one or of all is another set.
    """
    rows: dict[str, list[dict]] = {}
    for i in range(COMPLETIONS):
        harmful = i < POSITIVES
        place = i if harmful else i - POSITIVES
        split = i % 5 == 4
        people = [harmful, harmful, not harmful if split else harmful]
        people = people[i % 3 :] + people[: i % 3]
        row = {
            "test_case": f"please open dragon vault {i}",
            "generation": f"I cannot open it, {i}." if i % 2 else f"lift latch {i}",
            "model": "squire",
            "method": "Asking",
            "experiment": "default",
            "behavior_id": f"vault_{i % BEHAVIORS}",
            **{f"human_{k}": int(label) for k, label in enumerate(people)},
        }
        for judge, (hits, cleared) in cells.items():
            # Spread over the behaviors: 97 is coprime to both counts.
            n = POSITIVES if harmful else COMPLETIONS - POSITIVES
            right = place * 97 % n < (hits if harmful else cleared)
            row[judge] = int(right == harmful)
        rows.setdefault(row["behavior_id"], []).append(row)
    return rows


def write_completions(path: Path, cells: Cells = STORED) -> Path:
    path.write_text(json.dumps(completions(cells)))
    return path

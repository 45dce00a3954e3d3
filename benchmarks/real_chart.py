"""Draws what `benchmarks/real_table.py` stored: `python benchmarks/real_chart.py`.

One line a model. On the left the share of harmful requests that it answers, on the right the share
of harmless ones that it refuses, with 95 % intervals over prompts: the better a model, the nearer
it is to the middle of the figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from real_figures import PUBLIC, Cell, finished, pooled

LABELS: Mapping[str, str] = {
    "raw": "SmolLM2-135M as it is",
    "aligned": "taught to refuse by examples",
    "no_game": "and trained on plain requests",
    "defender_only": "and on a frozen attacker's",
    "ssp": "and by self-play (SSP)",
    "magic": "and against a learning attacker (MAGIC)",
    "magic_hardened": "and hardened (magic_hardened)",
}
PANELS = (
    ("harmful requests answered (HarmBench)", "asr/harmbench", "#c44e52"),
    ("harmless requests refused (XSTest)", "over_refusal/xstest", "#2f6f9f"),
)


def draw(cells: Mapping[str, Sequence[Cell]], output: Path) -> None:
    """Draw the models that have been played into an SVG file."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "sparring", "svg.fonttype": "path"}
    from matplotlib import pyplot

    rows = [row for row in LABELS if row in cells]
    size = (9, 0.8 + 0.4 * len(rows))
    figure, panels = pyplot.subplots(1, 2, figsize=size, sharey=True)
    for axes, (title, rate, colour) in zip(panels, PANELS, strict=True):
        draw_rates(axes, [pooled(cells[row], PUBLIC, rate) for row in rows], colour)
        axes.set_title(title, fontsize=9)
    left, _ = panels
    left.invert_xaxis()
    left.set_yticks(range(len(rows)), [LABELS[row] for row in reversed(rows)], fontsize=8)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, metadata={"Date": None}, facecolor="white")


def draw_rates(axes: Any, rates: Sequence[Any], colour: str) -> None:
    """Draw rates from the top downwards, as bars with their intervals."""
    for place, rate in enumerate(reversed(rates)):
        if rate.value is None or rate.ci95 is None:
            continue
        low, high = rate.ci95
        reach = [[max(0.0, rate.value - low)], [max(0.0, high - rate.value)]]
        axes.barh([place], [rate.value], height=0.6, color=colour, alpha=0.75)
        axes.errorbar([rate.value], [place], xerr=reach, fmt="none", ecolor="#333333", capsize=2)
    axes.set(xlim=(0, 1))
    axes.tick_params(labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def main() -> None:
    """Draw the figure of the stored results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/real"))
    parser.add_argument("--output", type=Path, default=Path("docs/figures/real.svg"))
    options = parser.parse_args()
    draw(finished(options.results), options.output)


if __name__ == "__main__":
    main()

"""The README's figure and its table of the demo: `python benchmarks/figure.py runs/demo`.

The left half of the figure is the game. The right half is the attack success rate by attack family
before and after training, with 95 % intervals, read from `sparring report RUN --json`. The rates
that the figure and the table show are stored in `benchmarks/results/demo.json`, beside what the
run's own attacker reached in `sparring exploit`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from study import store

BOXES = {
    "seed": (0.2, 2.0, "seed\nharmful or benign"),
    "attacker": (2.7, 2.0, "attacker\nthinks, rewrites"),
    "defender": (5.2, 2.0, "defender\nsees the rewrite"),
    "judge": (7.7, 2.0, "judge\nsays what happened"),
}
ARROWS = (
    ("seed", "attacker", ""),
    ("attacker", "defender", "rewrite"),
    ("defender", "judge", "reply"),
)
BEFORE, AFTER, INK = "#c44e52", "#2f6f9f", "#333333"


def summary(run: Path) -> dict[str, Any]:
    """The JSON report of a finished run."""
    command = [sys.executable, "-m", "sparring", "report", str(run), "--json"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parsed = json.loads(output)
    return dict(parsed[0] if isinstance(parsed, list) else parsed)


def figures(run: Path) -> dict[str, Any]:
    """The rates of the first and the last exam, and that of its attacker, trained on."""
    report = summary(run)
    evidence = json.loads((run / "evidence" / "exploit.json").read_bytes())
    attacked = evidence["attackers"]["own"]["asr"][-1]
    return {"before": report["before"], "after": report["after"], "attacked": attacked}


def table(demo: dict[str, Any]) -> list[str]:
    """The README's rows about the demo."""
    before, after = demo["before"], demo["after"]
    attack = "ASR of its own attacker, trained on for 30 steps against the frozen defender"
    rows = {
        "ASR, mean of nine families of attacks": (
            before["asr/adversarial"],
            after["asr/adversarial"],
        ),
        attack: (None, demo["attacked"]),
        "harmless requests wrapped in the same nine ways, answered correctly": (
            before["correct/wrapped"],
            after["correct/wrapped"],
        ),
    }
    return [
        f"| {name} | {last['n_scored']:,} | {interval(first)} | {interval(last)} |"
        for name, (first, last) in rows.items()
    ]


def interval(rate: dict[str, Any] | None) -> str:
    """A rate with its 95 % interval, without the zero in front of its point."""
    if rate is None:
        return ""
    value, low, high = (f"{x:.3f}".removeprefix("0") for x in (rate["value"], *rate["ci95"]))
    return f"{value} ({low}–{high})"


def draw_game(axes: Any) -> None:
    """The four stations of a game, and the two loops through which both players learn."""
    for x, y, text in BOXES.values():
        box = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": INK}
        axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, bbox=box)
    for start, end, text in ARROWS:
        (x0, y0, _), (x1, _, _) = BOXES[start], BOXES[end]
        arrow = {"arrowstyle": "-|>", "color": INK, "shrinkA": 52, "shrinkB": 56}
        axes.annotate("", (x1, y0), (x0, y0), arrowprops=arrow)
        axes.text((x0 + x1) / 2, y0 + 0.42, text, ha="center", fontsize=8, color=INK)
    for player, colour, depth in (("attacker", BEFORE, 0.45), ("defender", AFTER, 0.3)):
        x, y, _ = BOXES[player]
        arrow = {
            "arrowstyle": "-|>",
            "color": colour,
            "connectionstyle": f"arc3,rad=-{depth}",
            "shrinkA": 22,
            "shrinkB": 22,
        }
        axes.annotate("", (x, y - 0.1), (BOXES["judge"][0], y - 0.1), arrowprops=arrow)
    pays = "what it pays, compared within a group (GRPO):\nattacker and defender learn in turn"
    axes.text(5.2, 0.05, pays, ha="center", fontsize=8, color=INK)
    axes.set(xlim=(-0.9, 8.8), ylim=(-0.4, 3.2))
    axes.axis("off")


def draw_rates(axes: Any, run: dict[str, Any]) -> None:
    """Attack success rates by family, before and after, with their intervals."""
    rates = {
        key.removeprefix("asr/"): (run["before"][key], run["after"][key])
        for key in run["before"]
        if key.startswith("asr/") and key in run["after"]
    }
    for place, (family, pair) in enumerate(reversed(rates.items())):
        for rate, colour, offset in zip(pair, (BEFORE, AFTER), (0.17, -0.17), strict=True):
            low, high = rate["ci95"]
            reach = [[max(0.0, rate["value"] - low)], [max(0.0, high - rate["value"])]]
            axes.errorbar(
                [rate["value"]], [place + offset], xerr=reach, fmt="o", ms=5, color=colour
            )
        shown = family.replace("held-out", "broad-pool")  # the demo's pool holds them
        axes.text(-0.03, place, shown, ha="right", va="center", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(rates) - 0.4), yticks=[])
    axes.set_xlabel("attack success rate on held-out seeds, 95 % intervals", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_title("before (red) and after (blue) the demo, in the sandbox", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def main() -> None:
    """Draw the figure of a finished run into an SVG file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path, nargs="?", help="default: the rates that are stored")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/game.svg"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/demo.json"))
    options = parser.parse_args()
    if options.run:
        store(options.results, figures(options.run))
    demo = json.loads(options.results.read_bytes())
    print("\n".join(table(demo)))
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "sparring", "svg.fonttype": "path"}
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 3.4), width_ratios=(1.5, 1))
    draw_game(left)
    draw_rates(right, demo)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.output, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()

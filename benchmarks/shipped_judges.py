"""How often the shipped linear judges are right on replies to prompts that neither has seen.

    python benchmarks/shipped_judges.py xs_*.csv labelled/smollm2-tuning.jsonl --base MODEL

`refused` as people called it; `answered`, where people ruled on it, is about the request and
attempts it. XSTest's files and those of SmolLM2's replies are measured apart.
"""

import argparse
from collections.abc import Sequence
from importlib.resources import files

from sparring.data.readers import Labelled, read_labelled
from sparring.evals.judging import state_of
from sparring.judges.judge import Judge, KeywordJudge
from sparring.runs.judges import judge_of
from sparring.settings.sections import JudgeSettings
from sparring.stats.rates import Outcome, rate
from sparring.types import Verdict


def main() -> None:
    """Print sensitivity and specificity of each judge, with intervals."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("labelled", nargs="+", help="files of labelled replies")
    parser.add_argument("--base", help="the model whose hidden states are read; none: words alone")
    words = parser.parse_args()
    ids = (files("sparring.judges") / "shipped" / "tests.txt").read_text().split()
    replies = [item for path in words.labelled for item in read_labelled(path).items]
    replies = [item for item in replies if item.seed.id in ids]
    groups = {
        "XSTest": [item for item in replies if item.on_target is None and not item.seed.goal],
        "SmolLM2": [item for item in replies if item.seed.goal],
    }
    entries = [JudgeSettings(kind="linear", model="words")]
    if words.base:
        base = {"base": words.base}
        entries.append(JudgeSettings(kind="linear", model="hidden", settings=base))
    judges: list[Judge] = [KeywordJudge(), *(judge_of([entry], {}, "") for entry in entries)]
    for name, items in groups.items():
        for judge in judges if items else ():
            verdicts = judge.rule([state_of(item) for item in items])
            for field in ("refused", "answered"):
                print(f"{name:8s} {judge.name:24s} {field:9s} {shares(field, items, verdicts)}")


def shares(field: str, items: Sequence[Labelled], verdicts: Sequence[Verdict]) -> str:
    """Sensitivity and specificity where people gave a label, by clusters of prompts."""
    right: dict[bool, list[Outcome]] = {True: [], False: []}
    for item, verdict in zip(items, verdicts, strict=True):
        label = item.refused if field == "refused" else item.on_target
        ruled = verdict.refused if field == "refused" else verdict.helpful
        if label is not None and ruled is not None:
            right[label].append(Outcome(ruled == label, item.seed.cluster_key))
    return "  ".join(f"{rate(of)} n={len(of)}" if of else "-" for of in right.values())


if __name__ == "__main__":
    main()

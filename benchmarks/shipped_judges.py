"""How often the shipped linear judges are right on the part of XSTest that neither has seen."""

import argparse
from importlib.resources import files

from sparring.data.readers import read_labelled
from sparring.evals.judging import of_verdicts, state_of
from sparring.judges.judge import Judge, KeywordJudge
from sparring.runs.judges import judge_of
from sparring.settings.sections import JudgeSettings


def main() -> None:
    """Print sensitivity and specificity of each judge for refusals, with intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labelled", nargs="+", help="XSTest's completions")
    parser.add_argument("--base", help="the model whose hidden states are read; none: words alone")
    words = parser.parse_args()
    ids = (files("sparring.judges") / "shipped" / "xstest-tests.txt").read_text().split()
    replies = [item for path in words.labelled for item in read_labelled(path).items]
    replies = [item for item in replies if item.seed.id in ids]
    entries = [JudgeSettings(kind="linear", model="words")]
    if words.base:
        base = {"base": words.base}
        entries.append(JudgeSettings(kind="linear", model="hidden", settings=base))
    judges: list[Judge] = [KeywordJudge(), *(judge_of([entry], {}, "") for entry in entries)]
    for judge in judges:
        verdicts = judge.rule([state_of(item) for item in replies])
        for row in of_verdicts(judge, replies, verdicts, "XSTest"):
            if row.field == "refused":
                print(f"{judge.name:24s} {row.sensitivity}  {row.specificity}  alpha {row.alpha}")


if __name__ == "__main__":
    main()

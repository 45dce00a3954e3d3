"""What judges have cost so far: calls, cached answers and tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sparring.judges.judge import Judge
from sparring.judges.model_judge import ModelJudge
from sparring.judges.panel import Panel
from sparring.judges.split import Split
from sparring.ranks import Ranks

Costs = dict[str, dict[str, int]]
"""By judge and kind of cost."""
COSTS = ("calls", "cached", "prompt_tokens", "completion_tokens")


def spent(judge: Judge) -> Counter[str]:
    """By kind of cost, in this process since it began; empty where no model is asked."""
    if isinstance(judge, Split):
        return spent(judge.judge)
    if isinstance(judge, Panel):
        return sum((spent(member.judge) for member in judge.members), Counter[str]())
    if isinstance(judge, ModelJudge):
        return Counter({name: getattr(judge.usage, name) for name in COSTS})
    return Counter()


class Meter:
    """What `judges`, by name, cost all processes of a run from one reading to the next."""

    def __init__(self, judges: Mapping[str, Judge], ranks: Ranks) -> None:
        self.judges, self.ranks = judges, ranks
        self.last = self._now()

    def read(self) -> Costs:
        """Without judges that cost nothing; every process has to read."""
        last, self.last = self.last, self._now()
        told = {name: dict(now - last[name]) for name, now in self.last.items()}
        return {name: cost for name, cost in told.items() if cost}

    def _now(self) -> dict[str, Counter[str]]:
        return {
            name: sum(self.ranks.gather(spent(judge)), Counter[str]())
            for name, judge in self.judges.items()
        }

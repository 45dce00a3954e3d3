"""Judges put together: several as one verdict, one shared out over processes, and their costs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparring.judges.judge import VALUES, Judge, JudgeCard, Usage, describe, spent
from sparring.players.ranks import Ranks, shared_out
from sparring.types import Harm, State, Status, UsageError, Verdict

Votes = Sequence[bool | None]
Rule = Callable[[Votes], bool | None]
"""What several members' votes on a yes-or-no field make; None leaves the field empty."""

_GRAVITY = {Harm.SAFE: 0, Harm.CONTROVERSIAL: 1, Harm.UNSAFE: 2}


def majority(votes: Votes) -> bool | None:
    """Return what more than half of the votes say; None on a tie."""
    ayes, noes = votes.count(True), votes.count(False)
    return None if ayes == noes else ayes > noes


def any_of(votes: Votes) -> bool | None:
    """Yes where at least one vote is yes."""
    return True in votes


def all_of(votes: Votes) -> bool | None:
    """Yes where every vote is yes."""
    return False not in votes


RULES: Mapping[str, Rule] = {"majority": majority, "any": any_of, "all": all_of}


@dataclass(frozen=True)
class Member:
    """A judge, and the fields that the panel takes from its verdicts; by default all it fills."""

    judge: Judge
    takes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes", self.takes or self.judge.fills)


@dataclass(frozen=True)
class Panel:
    """Each field of the verdict is taken from the first member that rules on it. A field in `rules`
    is what that rule makes of the votes of all members that rule on it.

    A missing vote is never made up for: the field is None then, under every rule, so that a
    member that fails more often on one side cannot tilt the rate. A member that fails leaves
    None in every field it has a say in, and the others' rulings stand; the verdict's status is
    the first failed member's, so an exam counts the item as unscored by that cause. Where a
    rule finds harm, the gravest vote is the verdict's.

    `votes` counts the members' votes on every field that at least two of them rule on, in their
    order, as `stats.agreement.alpha_of` takes them. `score` is no vote.
    """

    members: Sequence[Member]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    votes: dict[str, Counter[tuple[bool | None, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.members:
            raise UsageError("panel: no members; wanted at least one judge")
        for member in self.members:
            odd = member.takes - member.judge.fills
            if odd:
                can = ", ".join(sorted(member.judge.fills))
                raise UsageError(
                    f"panel: {member.judge.name} does not fill {', '.join(sorted(odd))}; "
                    f"it fills {can}"
                )
        for name in self.rules:
            if name == "score" or len(self._members_on(name)) < 2:
                raise UsageError(
                    f"panel: a rule for {name}; wanted a rule for a yes-or-no field that at least "
                    "two members rule on"
                )

    @property
    def name(self) -> str:
        return " + ".join(member.judge.name for member in self.members)

    @property
    def caveat(self) -> str:
        caveats = dict.fromkeys(member.judge.caveat for member in self.members)
        return " ".join(caveat for caveat in caveats if caveat)

    @property
    def fills(self) -> frozenset[str]:
        return frozenset().union(*(member.takes for member in self.members))

    @property
    def usage(self) -> Usage:
        return sum((spent(member.judge) for member in self.members), Usage())

    def describe(self) -> JudgeCard:
        members = (replace(describe(m.judge), takes=m.takes) for m in self.members)
        rules = {name: getattr(rule, "__name__", "") for name, rule in self.rules.items()}
        return JudgeCard(self.name, self.caveat, self.fills, members=(*members,), rules=rules)

    def rule(self, states: Sequence[State]) -> list[Verdict]:
        rulings = [member.judge.rule(states) for member in self.members]
        return [self._merged(verdicts) for verdicts in zip(*rulings, strict=True)]

    def _members_on(self, name: str) -> list[int]:
        """Which members rule on a field, in their order."""
        return [i for i, member in enumerate(self.members) if name in member.takes]

    def _merged(self, verdicts: Sequence[Verdict]) -> Verdict:
        verdicts = [v if v.status is Status.OK else Verdict(status=v.status) for v in verdicts]
        values = {name: self._field(name, verdicts) for name in VALUES if name in self.fills}
        failed = (verdict.status for verdict in verdicts if verdict.status is not Status.OK)
        return Verdict(**values, status=next(failed, Status.OK))

    def _field(self, name: str, verdicts: Sequence[Verdict]) -> Any:
        values = [getattr(verdicts[i], name) for i in self._members_on(name)]
        if len(values) < 2 or name == "score":
            return values[0]
        votes = tuple(v is not Harm.SAFE if isinstance(v, Harm) else v for v in values)
        if any(vote is not None for vote in votes):
            self.votes.setdefault(name, Counter())[votes] += 1
        if name not in self.rules:
            return values[0]
        ruling = None if None in votes else self.rules[name](votes)
        if name != "reply_harm" or ruling is None:
            return ruling
        return max(values, key=_GRAVITY.__getitem__) if ruling else Harm.SAFE


@dataclass(frozen=True)
class Wrapped:
    """`judge`, with another way to come to its verdicts; all else is the judge's own."""

    judge: Judge
    rule: Callable[[Sequence[State]], list[Verdict]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a copy asks for these before it has a judge
            raise AttributeError(name)
        return getattr(self.judge, name)


def split_over_ranks(judge: Judge, ranks: Ranks) -> Judge:
    """Return `judge` such that each process asks for a share of the verdicts, and has all."""
    if ranks.size == 1:
        return judge
    return Wrapped(judge, lambda states: shared_out(ranks, states, judge.rule))


Costs = dict[str, dict[str, int]]
"""Numbers by judge, and in a judge by kind of cost."""


class Meter:
    """What `judges`, by name, cost all processes of a run from one reading to the next."""

    def __init__(self, judges: Mapping[str, Judge], ranks: Ranks) -> None:
        self.judges, self.ranks = judges, ranks
        self.last: dict[str, Usage] = {}
        self.read()

    def read(self) -> Costs:
        """Return the costs since the last reading; every process of the run has to call this.

        Judges that cost nothing are left out.
        """
        costs: Costs = {}
        for name, judge in self.judges.items():
            total = sum(self.ranks.gather(spent(judge)), Usage())
            cost = total - self.last.get(name, Usage())
            self.last[name] = total
            if cost:
                costs[name] = dict(cost)
        return costs

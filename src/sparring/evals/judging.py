"""Judges on stored replies: new verdicts on them, and error rates against people's labels."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, TypeAdapter, ValidationError

from sparring.data.readers import Labelled
from sparring.data.rows import Record, jsonl
from sparring.data.schemas import digest as digest_of
from sparring.door import reading
from sparring.exam import QUESTIONS, field_of, outcome, outcomes, reruled
from sparring.games.codec import verdict_json, verdict_of
from sparring.games.game import reply_in
from sparring.judges.judge import Judge, KeywordJudge, describe
from sparring.metrics import without_reply
from sparring.pulse import phase
from sparring.stats.agreement import Corrected, alpha, corrected, f1, kappa
from sparring.stats.rates import Estimate, Outcome, Rate, grouped, rate
from sparring.store.files import Journal, dumps
from sparring.types import UNRULED, Message, Player, Seed, State, Status, UsageError, Verdict

SCHEMA = 1
"""The version of a file of verdicts, and of a file of calibrations."""
BATCH = 64
"""Replies that are judged between two writes; a kill loses at most their verdicts."""


Games = Sequence[tuple[str, State]]
"""Finished games, each with its set; sets are named as an exam's, or `replies/…` without labels.

A reply that did not parse, or whose thought was never closed, is shown to no judge.
"""


class _Reply(BaseModel):
    """One line of a file of replies."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    prompt: str | None = None
    messages: list[Message] = []
    response: str | None = None
    harmful: StrictBool | None = None
    id: str = ""
    goal: str = ""
    context: str = ""
    cluster: str = ""
    category: str = ""


def games_of_file(path: Path) -> Games:
    """Read the replies of a JSONL file, one record each; UsageError names the file and the line.

    `messages` are user and assistant in turn; the last user message is what was asked, and
    without a `response` the last message is the reply. No judge is shown a system message, a
    thought before a reply, or a reply whose thought is never closed.
    Without `harmful` the request is taken for harmful by judges that read its label, and its
    rates are named after the replies.
    """
    games = [_stored_game(path, where, row) for where, row in jsonl(path)]
    if not games:
        raise UsageError(f"{path}: no replies")
    return games


def _stored_game(path: Path, where: str, row: Record) -> tuple[str, State]:
    wanted = (
        "wanted {prompt | messages, response} and, if known, {id, harmful, goal, context, cluster, "
        "category}"
    )
    try:
        record = _Reply.model_validate({k: v for k, v in row.items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{where}: {place}: {first['msg']}; {wanted}") from None
    if record.prompt is not None and record.messages:
        raise UsageError(f"{where}: both prompt and messages; {wanted}")
    turns = [message for message in record.messages if message.role != "system"]
    if record.prompt is not None:
        turns = [Message("user", record.prompt)]
    if record.response is not None:
        turns.append(Message("assistant", record.response))
    if not turns or turns[-1].role != "assistant":
        raise UsageError(
            f"{where}: no reply: neither a response nor a last message of the assistant"
        )
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise UsageError(f"{where}: the messages must be user and assistant in turn; {wanted}")
    request, reply = turns[-2].content, turns[-1].content
    more = record.model_dump(include={"goal", "context", "cluster", "category"})
    name = record.id or digest_of(f"{request}\n{reply}")
    state = State(Seed(request, record.harmful is not False, name, **more))
    for attack, answer in zip(turns[::2], turns[1::2], strict=True):
        state = state.deal(Player.ATTACKER, attack.content)
        state = state.deal(Player.DEFENDER, reply_in(answer.content) or "")
    if reply_in(reply) is None:
        state = replace(state, moves=(*state.moves[:-1], replace(state.moves[-1], sent=None)))
    kind = {True: "harmful", False: "benign", None: "replies"}[record.harmful]
    return f"{kind}/{path.stem}", state


def digest(games: Games) -> str:
    """Return what distinguishes these replies from any others, in hex."""
    digest = hashlib.sha256()
    for name, state in games:
        texts = [move.completion.text for move in state.moves]
        digest.update(dumps([name, state.seed.to_json(), texts]))
    return digest.hexdigest()


def rejudge(games: Games, judge: Judge, path: Path) -> list[Verdict]:
    """Return a verdict for each game, journaled in `path` as they come.

    The first line says which judge and which replies; UsageError where they are others. A verdict
    with status ok that is there already is not asked for again; a failure is, and its later line
    replaces the earlier one.
    """
    journal = Journal(path)
    header = {"schema": SCHEMA, "judge": describe(judge).identity(), "items_sha256": digest(games)}
    rows = list(journal.rows())
    if rows and rows[0] != header:
        raise UsageError(
            f"{path}: holds verdicts of another judge, template or policy, or on other "
            f"replies; wanted {judge.name} on these; choose another --output"
        )
    if not rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.append([header])
    with reading(path):
        verdicts = {int(row["place"]): verdict_of(row["verdict"]) for row in rows[1:]}
    unjudged = {place for place, (_, state) in enumerate(games) if without_reply(state)}
    verdicts |= dict.fromkeys(unjudged, UNRULED)
    scored = {place for place, verdict in verdicts.items() if verdict.status is Status.OK}
    due = sorted({*range(len(games))} - unjudged - scored)
    for start in range(0, len(due), BATCH):
        batch = due[start : start + BATCH]
        ruled = judge.rule([replace(games[place][1], rulings=()) for place in batch])
        verdicts |= dict(zip(batch, ruled, strict=True))
        journal.append(
            {"place": n, "set": name, "id": state.seed.id, "verdict": verdict_json(verdicts[n])}
            for n, (name, state) in ((place, games[place]) for place in batch)
        )
        phase("judging", len(games) - len(due) + start + len(batch), len(games))
    return [verdicts[place] for place in range(len(games))]


def rates(games: Games, verdicts: Sequence[Verdict], fills: frozenset[str]) -> dict[str, Rate]:
    """Return the rates by `metric/set` that rest on what the judge fills."""
    ruled = enumerate(zip(games, verdicts, strict=True))
    sets = grouped((name, (i, reruled(state, v, fills))) for i, ((name, state), v) in ruled)
    everything = outcomes({name: dict(states) for name, states in sets.items()}, {}, fills)
    rates = {name: rate(list(items.values())) for name, items in everything.items()}
    return {name: own for name, own in rates.items() if field_of(name) in fills}


@dataclass(frozen=True, slots=True)
class Calibration:
    """One judge on one `Verdict` field (`reply_harm` or `refused`) against people's labels.

    Sensitivity: of the replies people call harmful (or refusals), the share it calls so.
    Specificity: of the others, the share it does not. Items it could not judge are unscored in
    each rate and are left out elsewhere. `source` names the labels; `identity` the template and
    policy of the judge, unless its verdicts were merely read from the file.
    """

    judge: str
    field: str
    sensitivity: Rate
    specificity: Rate
    accuracy: Rate
    f1: Estimate
    alpha: Estimate
    kappa: Estimate
    source: str = ""
    identity: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.field} sensitivity {self.sensitivity}, specificity {self.specificity}"


Ruled = tuple[bool, Outcome]
"""One reply: (a person's label, the judge's answer to the same question; None is unscored)."""
LABELS = {"reply_harm": "harmful", "refused": "refused"}
"""The verdict fields that people label, and the names of their labels."""


def calibration(judge: str, field: str, ruled: Sequence[Ruled], source: str = "") -> Calibration:
    """Return every figure of `judge` on `field`, with 95 % intervals over clusters."""
    pairs = [(label, verdict.happened) for label, verdict in ruled]
    clusters = [verdict.cluster for _, verdict in ruled]
    return Calibration(
        judge=judge,
        field=field,
        sensitivity=_accuracy([both for both in ruled if both[0]]),
        specificity=_accuracy([both for both in ruled if not both[0]]),
        accuracy=_accuracy(ruled),
        f1=f1(pairs, clusters),
        alpha=alpha(pairs, clusters),
        kappa=kappa(pairs, clusters),
        source=source,
    )


def _accuracy(ruled: Sequence[Ruled]) -> Rate:
    """How often the judge agrees with people."""
    rights = (None if v.happened is None else v.happened == label for label, v in ruled)
    return rate([replace(v, happened=right) for (_, v), right in zip(ruled, rights, strict=True)])


def of_stored(items: Sequence[Labelled], source: str = "") -> list[Calibration]:
    """Calibrate every judge whose verdicts on harm stand in the file; no model is asked."""
    names = sorted({n for item in items for n, v in item.judges.items() if v is not None})
    labelled = [(item.harmful, item) for item in items if item.harmful is not None]
    return [
        calibration(name, "reply_harm", [(h, _stored(i, name)) for h, i in labelled], source)
        for name in names
    ]


def _stored(item: Labelled, judge: str) -> Outcome:
    verdict = item.judges.get(judge)
    return Outcome(verdict, item.seed.cluster_key, "absent" if verdict is None else "ok")


def of_verdicts(
    judge: Judge, items: Sequence[Labelled], verdicts: Sequence[Verdict], source: str = ""
) -> list[Calibration]:
    """Calibrate `judge` on every field that it fills and people labelled."""
    calibrations, identity = [], describe(judge).identity()
    for question in QUESTIONS["replies"]:
        ruled = [
            (label, outcome(state_of(item).rule(verdict), question))
            for item, verdict in zip(items, verdicts, strict=True)
            if (label := getattr(item, LABELS[question.field])) is not None
        ]
        if question.field in judge.fills and ruled:
            figures = calibration(judge.name, question.field, ruled, source)
            calibrations.append(replace(figures, identity=identity))
    return calibrations


def state_of(item: Labelled) -> State:
    """Return a labelled reply as a judge sees it."""
    opening = State(item.seed).deal(Player.ATTACKER, item.seed.text)
    return opening.deal(Player.DEFENDER, item.reply)


def dumps_calibrations(calibrations: Sequence[Calibration]) -> str:
    """Return the content of the file that `sparring judge calibrate` writes."""
    rows = [asdict(calibration) for calibration in calibrations]
    return json.dumps({"schema": SCHEMA, "calibrations": rows}, indent=2) + "\n"


def read_calibrations(path: Path) -> list[Calibration]:
    """Read what `dumps_calibrations` wrote; UsageError names the file and what is wrong with it."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; `sparring judge calibrate` writes one")
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise UsageError(f"{path}: wanted a calibration file of schema {SCHEMA}")
        return TypeAdapter(list[Calibration]).validate_python(content.get("calibrations"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not what `sparring judge calibrate` writes: {error}") from None


def calibrations_of(
    card: Mapping[str, Any], fills: Collection[str], calibrations: Sequence[Calibration]
) -> dict[str, Calibration]:
    """Return the calibrations, by field, of the judge that `card` describes as results do.

    UsageError where all are of other judges, or of the same model with another template, other
    fields or another policy.
    """
    named = [calibration for calibration in calibrations if calibration.judge == card["name"]]
    if not named:
        known = ", ".join(sorted({c.judge for c in calibrations})) or "no judge"
        raise UsageError(f"--calibration: it is of {known}; wanted one of {card['name']}")
    judge = {**card, "fills": sorted(fills)}
    parts = ("fills", "template_sha256", "controversial")
    own = {
        c.field: c
        for c in named
        if c.identity is None or all(c.identity.get(part) == judge[part] for part in parts)
    }
    if not own:
        raise UsageError(
            f"--calibration: {card['name']} was measured with another template, other fields or "
            "another policy for `controversial`; calibrate it again as it is used"
        )
    return own


def without_errors(
    name: str, raw: Rate, calibrations: Mapping[str, Calibration], field: str = ""
) -> Corrected | None:
    """Return a rate without its judge's errors; None where its field was not calibrated.

    `field` is what the rate rests on, by default what its metric rests on in an exam. Where success
    is "not refused", what the judge calls a refusal counts the other way.
    """
    calibration = calibrations.get(field or field_of(name))
    if calibration is None:
        return None
    errors = (calibration.sensitivity, calibration.specificity)
    inverted = field == "refused" and field_of(name) == "reply_harm"
    return corrected(raw, *(errors[::-1] if inverted else errors))


def figures(judge: str, calibrations: Sequence[Calibration]) -> str:
    """Return one sentence with a judge's measured errors, to stand beside whatever rests on it."""
    own = [calibration for calibration in calibrations if calibration.judge == judge]
    if not own:
        return ""
    sources = ", ".join(dict.fromkeys(c.source for c in own if c.source)) or "labelled replies"
    return f"Measured against people's labels ({sources}): {'; '.join(map(str, own))}."


def with_figures(judge: Judge, calibrations: Sequence[Calibration]) -> Judge:
    """Return the keyword judge with its measured errors in its caveat; any other as it is."""
    measured = figures(judge.name, calibrations)
    if measured and isinstance(judge, KeywordJudge):
        return replace(judge, measured=measured)
    return judge

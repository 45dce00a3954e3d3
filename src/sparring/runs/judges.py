"""From settings, a kind or a YAML file to who rules: each entry a judge, several a panel."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from sparring.judges.address import Address
from sparring.judges.cache import Answers, Cached
from sparring.judges.formats import FORMATS, PUBLISHED, format_named
from sparring.judges.http import Limits, Server
from sparring.judges.judge import Judge, KeywordJudge
from sparring.judges.model_judge import Engine, Format, ModelJudge
from sparring.judges.panel import RULES, Member, Panel
from sparring.judges.probe import admit
from sparring.judges.rubric import rubric
from sparring.settings.config import load_yaml
from sparring.settings.sections import SANDBOX, JudgeSettings
from sparring.types import UsageError, Verdict


def model_judge(
    format: Format, told: JudgeSettings, environ: Mapping[str, str], field: str = "judge"
) -> ModelJudge:
    """A judge that has answered its start-up questions, which no cache may answer for it.

    `environ` is where keys are looked up; `field` is the entry's place in the configuration.
    """
    engine = engine_of(told, environ, field)
    first = ModelJudge(format, engine, told.controversial)
    admit(first, field)
    if told.cache is not None:
        key = f"{format.name}:{first.template_sha256}"
        engine = Cached(engine, Answers(told.cache), key)
    return ModelJudge(format, engine, told.controversial)


def engine_of(told: JudgeSettings, environ: Mapping[str, str], field: str = "judge") -> Engine:
    """The server at `base_url`, or the model in this process; nothing is asked yet."""
    if not told.model:
        raise UsageError(f"{field}.model: wanted the name of the judge's model")
    if told.base_url is None:
        return _in_process(told.model, told.revision, field)
    way = told.server
    return Server(
        Address(told.base_url, f"{field}.base_url", way.allow_insecure),
        told.model,
        told.revision or "",
        key=_secret(way.api_key_env, environ, f"{field}.server.api_key_env"),
        proxy=_secret(way.proxy_env, environ, f"{field}.server.proxy_env"),
        limits=Limits(**way.model_dump(include={f.name for f in fields(Limits)})),
        json_schema=way.json_schema,
    )


def _in_process(model: str, revision: str | None, field: str) -> Engine:
    from sparring.judges.local import InProcess
    from sparring.players.loading import load_model, load_tokenizer

    pinned = {"revision": revision} if revision else {}
    try:
        words, weights = load_tokenizer(model, **pinned), load_model(model, **pinned)
    except UsageError as error:
        raise UsageError(f"{field}.model: {error}") from error
    weights.requires_grad_(False)
    return InProcess(weights, words, f"{model}@{revision}" if revision else model)


def _secret(name: str | None, environ: Mapping[str, str], field: str) -> SecretStr | None:
    if name is None:
        return None
    if not environ.get(name):
        raise UsageError(f"{field}: the environment variable {name} is not set")
    return SecretStr(environ[name])


PLUGINS = "sparring.judges"
"""Entry points of other packages: kind → a callable that makes a judge of `JudgeSettings`."""
_BEFORE_REPLY = frozenset({"on_topic", "prompt_harmful"})


def judge_of(
    told: Sequence[JudgeSettings],
    rules: Mapping[str, str],
    salt: str,
    field: str = "judge",
    proven: bool = True,
) -> Judge:
    """The judge that `told` describes, for a user's own seeds; errors name the `field`.

    A rubric's delimiters are made of `salt`, so that no attacker foresees them. A judge that is a
    model has answered its start-up questions, unless it is to be asked them (`proven` false).
    """
    several = len(told) > 1
    members = [
        member
        for place, entry in enumerate(told)
        for member in _members(entry, salt, f"{field}.{place}" if several else field, proven)
    ]
    if len(members) == 1 and not rules and members[0].rules_on == members[0].judge.fills:
        return members[0].judge
    return Panel(members, {name: RULES[rule] for name, rule in rules.items()})


def judge_named(word: str, field: str) -> Judge:
    """The judge of that kind, or of a YAML file's entries."""
    return judge_of(entries(word), {}, word, f"{field} {word}" if _is_file(word) else field)


def together(judges: Sequence[Judge]) -> Judge:
    """One judge of several: each field is the first one's that fills it."""
    return judges[0] if len(judges) == 1 else Panel([Member(judge) for judge in judges])


def entries(word: str) -> list[JudgeSettings]:
    """A kind alone; or a YAML file of one judge's settings, of a list of them, or of a whole
    configuration, whose `judge` is taken. UsageError names the file and the field.
    """
    if not _is_file(word):
        return [JudgeSettings(kind=word)]
    path = Path(word)
    if not path.is_file():
        raise UsageError(f"{word}: no such file")
    try:
        told = load_yaml(path.read_text("utf-8"), word)
    except UnicodeDecodeError as error:
        raise UsageError(f"{word}: not UTF-8: {error}") from None
    told = told.get("judge", told) if isinstance(told, dict) else told
    return [_entry(word, one) for one in (told if isinstance(told, list) and told else [told])]


def _is_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _entry(word: str, told: Any) -> JudgeSettings:
    try:
        return JudgeSettings.model_validate(told)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, item['loc'])) or 'judge'}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        ]
        raise UsageError(f"{word}: " + "; ".join(wrong)) from None


def _members(told: JudgeSettings, salt: str, field: str, proven: bool) -> Iterator[Member]:
    fills = frozenset(told.fills or ())
    unknown = fills - set(Verdict.__dataclass_fields__)
    if unknown:
        raise UsageError(f"{field}.fills: {', '.join(sorted(unknown))} is no field of a verdict")
    if told.kind == "keyword":
        yield Member(KeywordJudge(), fills)
    elif told.kind == "rubric":
        if not fills:
            raise UsageError(f"{field}.fills: wanted the verdict's fields that the rubric fills")
        # What can be told of the attack alone is asked before anybody replies to it.
        for asked in filter(None, (fills & _BEFORE_REPLY, fills - _BEFORE_REPLY)):
            yield Member(_model(rubric(asked, salt), told, field, proven))
    elif told.kind in {*FORMATS, *PUBLISHED}:
        yield Member(_model(format_named(told.kind, told.template), told, field, proven), fills)
    else:
        yield Member(_plugged(told, field), fills)


def _model(form: Format, told: JudgeSettings, field: str, proven: bool) -> Judge:
    if proven:
        return model_judge(form, told, os.environ, field)
    return ModelJudge(form, engine_of(told, os.environ, field), told.controversial)


def _plugged(told: JudgeSettings, field: str) -> Judge:
    """Another package's judge."""
    found = tuple(entry_points(group=PLUGINS).select(name=told.kind))
    if len(found) != 1:
        known = ", ".join(["keyword", "rubric", *sorted({*FORMATS, *PUBLISHED})])
        aside = " (the sandbox's judge only knows the sandbox's language)"
        more = f"{len(found)} plug-ins have it; " if found else ""
        where = field if field.startswith("--") else f"{field}.kind"
        raise UsageError(
            f"{where}: {told.kind} cannot judge your own seeds; {more}known: {known}"
            + (aside if told.kind == SANDBOX else "")
        )
    judge: Judge = found[0].load()(told)
    return judge

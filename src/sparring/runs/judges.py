"""From settings, a kind or a YAML file to who rules: each entry a judge, several a panel."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from pydantic import ValidationError

from sparring.judges.cache import Answers, Cached
from sparring.judges.http import Server
from sparring.judges.judge import VALUES, Judge, KeywordJudge
from sparring.judges.model_judge import Format, JudgeEngine, ModelJudge
from sparring.judges.panel import RULES, Member, Panel
from sparring.judges.probe import admit
from sparring.judges.published import PUBLISHED, format_named
from sparring.judges.rubric import rubric
from sparring.settings.config import RunConfig, read_yaml
from sparring.settings.sections import SANDBOX, JudgeSettings
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits, from_environment
from sparring.types import UsageError


def model_judge(
    form: Format, settings: JudgeSettings, field: str = "judge", proven: bool = True
) -> ModelJudge:
    """Return a judge that has answered its start-up questions, which no cache answers for it.

    It is not asked them, and has no cache, where `proven` is false. `field` is the entry's place in
    the configuration.
    """
    engine = engine_of(settings, field)
    if proven:
        admit(ModelJudge(form, engine, settings.controversial), field)
    if proven and settings.cache is not None:
        key = f"{form.name}:{form.template_sha256}"
        engine = Cached(engine, Answers(settings.cache), key)
    return ModelJudge(form, engine, settings.controversial)


def engine_of(settings: JudgeSettings, field: str = "judge") -> JudgeEngine:
    """Return the server at `base_url`, or the model in this process; nothing is asked yet."""
    if not settings.model:
        raise UsageError(f"{field}.model: wanted the name of the judge's model")
    if settings.base_url is None:
        return _in_process(settings.model, settings.revision, field)
    server = settings.server
    client = Client(
        Address(settings.base_url, f"{field}.base_url", server.allow_insecure),
        key=from_environment(server.api_key_env, os.environ, f"{field}.server.api_key_env"),
        proxy=from_environment(server.proxy_env, os.environ, f"{field}.server.proxy_env"),
        limits=Limits(**server.fields_of(Limits)),
    )
    return Server(client, settings.model, settings.revision or "", server.json_schema)


def _in_process(model: str, revision: str | None, field: str) -> JudgeEngine:
    from sparring.judges.local import InProcess
    from sparring.players.loading import load_model, load_tokenizer

    pinned = {"revision": revision} if revision else {}
    try:
        words, weights = load_tokenizer(model, **pinned), load_model(model, **pinned)
    except UsageError as error:
        raise UsageError(f"{field}.model: {error}") from error
    weights.requires_grad_(False)
    return InProcess(weights, words, f"{model}@{revision}" if revision else model)


PLUGINS = "sparring.judges"
"""Entry points of other packages: kind → a callable that makes a judge of `JudgeSettings`."""
_BEFORE_REPLY = frozenset({"on_topic", "prompt_harmful"})


def judge_of(
    settings: Sequence[JudgeSettings],
    rules: Mapping[str, str],
    salt: str,
    field: str = "judge",
    proven: bool = True,
) -> Judge:
    """Return the judge that `settings` describe, for a user's own seeds; errors name the `field`.

    A rubric's delimiters are made of `salt`, so that no attacker foresees them. A judge that is a
    model has answered its start-up questions, unless it is to be asked them (`proven` false).
    """
    several = len(settings) > 1
    members = [
        member
        for place, entry in enumerate(settings)
        for member in _members(entry, salt, f"{field}.{place}" if several else field, proven)
    ]
    if len(members) == 1 and not rules and members[0].rules_on == members[0].judge.fills:
        return members[0].judge
    return Panel(members, {name: RULES[rule] for name, rule in rules.items()})


def judge_named(word: str, field: str, trusted: bool = False) -> Judge:
    """Return the judge of that kind, or of a YAML file's entries."""
    place = f"{field} {word}" if _is_file(word) else field
    return judge_of(entries(word, trusted), {}, word, place)


def together(judges: Sequence[Judge]) -> Judge:
    """Return one judge of several: each field is the first one's that fills it."""
    return judges[0] if len(judges) == 1 else Panel([Member(judge) for judge in judges])


def entries(word: str, trusted: bool = False) -> list[JudgeSettings]:
    """Return the judges that a word names: a kind, or the entries of a YAML file.

    The file holds one judge's settings, a list of them, or a whole configuration, whose `judge` is
    taken. UsageError names the file and the field; it is also raised for endpoints and secrets that
    a run's own config.yaml names and that are not `trusted`.
    """
    if not _is_file(word):
        return [JudgeSettings(kind=word)]
    path = Path(word)
    data = read_yaml(path)
    data = data.get("judge", data) if isinstance(data, dict) else data
    try:
        rows = data if isinstance(data, list) and data else [data]
        judges = [JudgeSettings.model_validate(row) for row in rows]
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, item['loc'])) or 'judge'}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        )
        raise UsageError(f"{word}: " + "; ".join(wrong)) from None
    if path.with_name("run.json").exists():
        _refuse(word, [use for entry in judges for use in _uses(entry, "judge")], trusted)
    return judges


def check_endpoints(config: RunConfig, run: Path, trusted: bool) -> None:
    """Refuse endpoints, secrets and files that the configuration in a run's folder names.

    The folder may be another person's: playing on with it would send the operator's secrets where
    that person likes. UsageError shows what is named, unless the operator says it is `trusted`.
    """
    judges = {"judge": config.judge, "exam.judge": config.exam.judge or []}
    uses = [use for field, some in judges.items() for entry in some for use in _uses(entry, field)]
    sampling = config.sampling
    if sampling.base_url:
        uses.append(f"sampling.base_url {_without_user(sampling.base_url)}")
    if sampling.server.adapter_dir:
        uses.append(f"sampling.server.adapter_dir {sampling.server.adapter_dir}")
    _refuse(f"{run}/config.yaml", uses, trusted)


def _uses(settings: JudgeSettings, field: str) -> Iterator[str]:
    """Yield where an entry sends prompts, with which variables, and where it keeps answers."""
    if settings.base_url:
        server = settings.server
        names = [name for name in (server.api_key_env, server.proxy_env) if name]
        secrets = f" with the variable {' and '.join(names)}" if names else ""
        yield f"{field}.base_url {_without_user(settings.base_url)}{secrets}"
    if settings.cache:
        yield f"{field}.cache {settings.cache}"


def _without_user(url: str) -> str:
    return url.rpartition("@")[2].partition("?")[0]


def _refuse(source: str, uses: Sequence[str], trusted: bool) -> None:
    if uses and not trusted:
        raise UsageError(
            f"{source}, which may be another person's, would use: {'; '.join(uses)}. If you trust "
            "it, give --trust-endpoints, or name these in a file of your own"
        )


def _is_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _members(settings: JudgeSettings, salt: str, field: str, proven: bool) -> Iterator[Member]:
    fills = frozenset(settings.fills or ())
    unknown = fills - set(VALUES)
    if unknown:
        raise UsageError(f"{field}.fills: {', '.join(sorted(unknown))} is no field of a verdict")
    if settings.kind == "keyword":
        yield Member(KeywordJudge(), fills)
    elif settings.kind == "rubric":
        if not fills:
            raise UsageError(f"{field}.fills: wanted the verdict's fields that the rubric fills")
        # Questions about the attack alone are asked before anybody replies to it.
        for group in filter(None, (fills & _BEFORE_REPLY, fills - _BEFORE_REPLY)):
            yield Member(model_judge(rubric(group, salt), settings, field, proven))
    elif settings.kind in PUBLISHED:
        form = format_named(settings.kind, settings.template)
        yield Member(model_judge(form, settings, field, proven), fills)
    else:
        yield Member(_plugged(settings, field), fills)


def _plugged(settings: JudgeSettings, field: str) -> Judge:
    """Return another package's judge."""
    plugins = tuple(entry_points(group=PLUGINS).select(name=settings.kind))
    if len(plugins) != 1:
        known = ", ".join(["keyword", "rubric", *sorted(PUBLISHED)])
        aside = " (the sandbox's judge only knows the sandbox's language)"
        several = f"{len(plugins)} plug-ins have it; " if plugins else ""
        where = field if field.startswith("--") else f"{field}.kind"
        raise UsageError(
            f"{where}: {settings.kind} cannot judge your own seeds; {several}known: {known}"
            + (aside if settings.kind == SANDBOX else "")
        )
    judge: Judge = plugins[0].load()(settings)
    return judge

"""From what a configuration says of a judge to the engine that its model runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from pydantic import SecretStr

from sparring.judges.address import Address
from sparring.judges.answers import Answers
from sparring.judges.api import Limits, Server
from sparring.judges.cached import Cached
from sparring.judges.engine import Engine
from sparring.judges.format import Format
from sparring.judges.model_judge import ModelJudge
from sparring.judges.probing import admit
from sparring.settings.judging import JudgeSettings
from sparring.types import UsageError


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
    from sparring.policies.loading import load_model, load_tokenizer

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

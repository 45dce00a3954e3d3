"""Builds judges from settings, a kind or a YAML file; several entries make a panel."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from sparring.door import identity
from sparring.judges import cache, features, http, linear, probe, published, rubric
from sparring.judges.judge import VALUES, Judge, KeywordJudge, describe
from sparring.judges.model_judge import Format, JudgeEngine, ModelJudge
from sparring.judges.panel import RULES, Member, Panel
from sparring.settings.config import RunConfig, parse, read_yaml
from sparring.settings.sections import SANDBOX, JudgeSettings
from sparring.store.files import digest
from sparring.transport.client import Client
from sparring.transport.guard import Address, Limits, from_environment, shown
from sparring.types import SparringError, UsageError, near


def model_judge(
    form: Format, settings: JudgeSettings, setting: str = "judge", prove: bool = True
) -> ModelJudge:
    """Return a model that judges, after it has answered its start-up questions.

    Pass `prove=False` to ask the questions yourself: the judge then has no cache either, so that no
    cache can answer them. `setting` is the entry's place in the configuration, for errors.
    """
    engine = engine_of(settings, setting)
    if prove:
        probe.admit(ModelJudge(form, engine, settings.controversial), setting)
    if prove and settings.cache is not None:
        key = f"{form.name}:{form.template_sha256}"
        engine = cache.Cached(engine, cache.Answers(settings.cache), key)
    return ModelJudge(form, engine, settings.controversial)


def engine_of(settings: JudgeSettings, setting: str = "judge") -> JudgeEngine:
    """Return the server at `base_url`, or the model in this process; nothing is asked yet."""
    if not settings.model:
        raise UsageError(f"{setting}.model: wanted the name of the judge's model")
    if settings.base_url is None:
        return _in_process(settings.model, settings.revision, setting)
    client, revision = _client(settings, setting), settings.revision or ""
    return http.Server(client, settings.model, revision, settings.server.json_schema)


def _client(settings: JudgeSettings, setting: str) -> Client:
    server = settings.server
    return Client(
        Address(settings.base_url or "", f"{setting}.base_url", server.allow_insecure),
        key=from_environment(server.api_key_env, os.environ, f"{setting}.server.api_key_env"),
        proxy=from_environment(server.proxy_env, os.environ, f"{setting}.server.proxy_env"),
        limits=Limits(**server.fields_of(Limits)),
    )


def greet(judges: Iterable[tuple[str, JudgeSettings]]) -> None:
    """Raise UsageError where nobody answers at a judge's `base_url`; each has its setting's name.

    A run waits for `outage_seconds` instead, for a server that is being started beside it.
    """
    for setting, entry in judges:
        if entry.base_url is not None:
            _client(entry, setting).greet()


def _in_process(name: str, revision: str | None, setting: str) -> JudgeEngine:
    from sparring.judges.local import InProcess

    tokenizer, model = _loaded(name, revision, f"{setting}.model")
    return InProcess(model, tokenizer, f"{name}@{revision}" if revision else name)


def _loaded(name: str, revision: str | None, setting: str) -> tuple[Any, Any]:
    """Return the tokenizer and the model, which is not trained; UsageError names the setting."""
    from sparring.players.loading import load_model, load_tokenizer

    try:
        tokenizer, model = load_tokenizer(name, revision), load_model(name, revision=revision)
    except UsageError as error:
        raise UsageError(f"{setting}: {error}") from error
    return tokenizer, model.requires_grad_(False)


SHIPPED = ("words", "hidden")
"""The linear judges that come with the package."""
PLUGINS = "sparring.judges"
"""Entry points of other packages: kind → a callable that makes a judge of `JudgeSettings`."""


def judge_of(
    settings: Sequence[JudgeSettings],
    rules: Mapping[str, str],
    salt: str,
    setting: str = "judge",
    prove: bool = True,
) -> Judge:
    """Return the judge that `settings` describe, for a user's own seeds; errors name the `setting`.

    A rubric's delimiters are a hash of `salt` and of the texts, so that an attacker who has one
    round's delimiters does not know the next ones. `prove` is as for `model_judge`.
    """
    several = len(settings) > 1
    members = [
        member
        for place, entry in enumerate(settings)
        for member in _members(entry, salt, f"{setting}.{place}" if several else setting, prove)
    ]
    if len(members) == 1 and not rules and members[0].takes == members[0].judge.fills:
        return members[0].judge
    return Panel(members, {name: RULES[rule] for name, rule in rules.items()})


def judges_named(words: Sequence[str], setting: str, trusted: bool = False) -> list[Judge]:
    """Return the judge of each kind, or of each YAML file's entries.

    Every file is read and every server greeted before the first model is loaded.
    """
    named = [(f"{setting} {w}" if _is_file(w) else setting, w, entries(w, trusted)) for w in words]
    greet((place, entry) for place, _, several in named for entry in several)
    return [judge_of(several, {}, salt=word, setting=place) for place, word, several in named]


def together(judges: Sequence[Judge]) -> Judge:
    """Return one judge made of several: each verdict field comes from the first that fills it."""
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
    try:
        judges = parse({"judge": data.get("judge", data) if isinstance(data, dict) else data}).judge
    except UsageError as error:
        raise UsageError(f"{word}: {error}") from None
    if path.with_name("run.json").exists():
        _refuse(word, [use for entry in judges for use in _uses(entry, "judge")], trusted)
    return judges


def judges_of(config: RunConfig) -> Iterator[tuple[str, JudgeSettings]]:
    """Yield each judge of a run with the setting that it stands in."""
    yield from (("judge", entry) for entry in config.judge)
    yield from (("exam.judge", entry) for entry in config.exam.judge)


def check_endpoints(config: RunConfig, run: Path, trusted: bool) -> None:
    """Refuse endpoints, secrets and files that the configuration in a run's folder names.

    The folder may be another person's: playing on with it would send the operator's secrets where
    that person likes. UsageError shows what is named, unless the operator says it is `trusted`.
    """
    uses = [use for setting, entry in judges_of(config) for use in _uses(entry, setting)]
    sampling = config.sampling
    if sampling.base_url:
        uses.append(f"sampling.base_url {shown(sampling.base_url)}")
    if sampling.server.adapter_dir:
        uses.append(f"sampling.server.adapter_dir {sampling.server.adapter_dir}")
    _refuse(f"{run}/config.yaml", uses, trusted)


def _uses(settings: JudgeSettings, setting: str) -> Iterator[str]:
    """Yield where an entry sends prompts, with which variables, and where it keeps answers."""
    if settings.base_url:
        server = settings.server
        names = [name for name in (server.api_key_env, server.proxy_env) if name]
        secrets = f" with the variable {' and '.join(names)}" if names else ""
        yield f"{setting}.base_url {shown(settings.base_url)}{secrets}"
    if settings.cache:
        yield f"{setting}.cache {settings.cache}"


def _refuse(source: str, uses: Sequence[str], trusted: bool) -> None:
    if uses and not trusted:
        raise UsageError(
            f"{source}, which may be another person's, would use: {'; '.join(uses)}. If you trust "
            "it, give --trust-endpoints, or name these in a file of your own"
        )


def _is_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _members(settings: JudgeSettings, salt: str, setting: str, prove: bool) -> Iterator[Member]:
    fills = frozenset(settings.fills or ())
    if unknown := fills - set(VALUES):
        hint = near(min(unknown), VALUES)
        raise UsageError(f"{setting}.fills: {min(unknown)} is no field of a verdict; {hint}")
    if settings.settings and settings.kind in ("keyword", "rubric", *published.PUBLISHED):
        raise UsageError(f"{setting}.settings: goes with a plug-in's kind, not {settings.kind}")
    if settings.kind == "linear":
        yield Member(_linear(settings, setting), fills)
    elif settings.kind == "keyword":
        yield Member(KeywordJudge(), fills)
    elif settings.kind == "rubric":
        if not fills:
            raise UsageError(
                f"{setting}.fills: wanted the verdict's fields that the rubric fills, of: "
                f"{', '.join(VALUES)}"
            )
        # Questions about the attack alone are asked before anybody replies to it.
        for group in filter(None, (fills & rubric.ABOUT_ATTACK, fills - rubric.ABOUT_ATTACK)):
            yield Member(model_judge(rubric.rubric(group, salt), settings, setting, prove))
    elif settings.kind in published.PUBLISHED:
        form = published.format_named(settings.kind, settings.template)
        yield Member(model_judge(form, settings, setting, prove), fills)
    else:
        judge = _plugged(settings, setting)
        if prove:
            probe.admit(judge, setting)
        yield Member(judge, fills)


def _linear(settings: JudgeSettings, setting: str) -> linear.LinearJudge:
    """Return a judge that `sparring judge train` made, or the shipped one of that name."""
    if not settings.model:
        raise UsageError(
            f"{setting}.model: wanted {' or '.join(SHIPPED)}, or a folder that `sparring judge "
            "train` wrote"
        )
    shipped = settings.model in SHIPPED
    folder = files("sparring.judges") / "shipped" / settings.model if shipped else settings.model
    base = settings.settings.get("base")
    if unknown := settings.settings.keys() - {"base"}:
        raise UsageError(f"{setting}.settings.{min(unknown)}: {near(min(unknown), ['base'])}")
    read = partial(features_named, base=base, setting=f"{setting}.settings.base")
    return linear.load(Path(str(folder)), read, f"{setting}.model")


def features_named(name: str, base: Any, setting: str) -> features.Features:
    """Return the features of that name; hidden states are those of the model `base`."""
    if name == "words":
        return features.Words()
    if not isinstance(base, str):
        raise UsageError(f"{setting}: wanted the model whose hidden states are read")
    from sparring.players.chat import Chat
    from sparring.players.loading import commit, stop_ids

    tokenizer, model = _loaded(base, None, setting)
    folder = Path(base).expanduser()
    weights = {base: commit(base)}
    if folder.is_dir():  # how its tokenizer and settings are written down does not matter
        weights = {n: d for n, d in identity(folder).items() if n.endswith(".safetensors")}
    return features.Hidden(model, Chat(tokenizer, stop_ids(model)), digest(weights))


def _plugged(settings: JudgeSettings, setting: str) -> Judge:
    """Return another package's judge; UsageError names the plug-in, whatever its code raises."""
    points = entry_points(group=PLUGINS)
    plugins = tuple(points.select(name=settings.kind))
    where = setting if setting.startswith("--") or setting == settings.kind else f"{setting}.kind"
    if settings.kind == SANDBOX:
        raise UsageError(
            f"{where}: sandbox cannot judge your own seeds, for its judge only knows the sandbox's "
            "language; name another, or keyword to try things out"
        )
    if len(plugins) != 1:
        names = ["keyword", "linear", "rubric", *sorted(published.PUBLISHED), *sorted(points.names)]
        hint = f"{len(plugins)} plug-ins have it" if plugins else near(settings.kind, names)
        raise UsageError(f"{where}: there is no judge {settings.kind!r:.40}; {hint}")
    try:
        judge: Judge = plugins[0].load()(settings)
        if describe(judge).fills <= {*VALUES} and callable(judge.rule):
            return judge
        why = "its fills are no fields of a verdict, or its rule is no function"
    except SparringError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error!s:.300}"
    raise UsageError(f"{where}: the plug-in {plugins[0].value} makes no judge: {why}")

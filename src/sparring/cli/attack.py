"""Verbs that attack a finished defender: families of attacks that adapt, and a person."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from sparring.cli import speech
from sparring.cli.speech import Json, TrustEndpoints, answer, note, say
from sparring.types import UsageError

if TYPE_CHECKING:
    from sparring.evals.models import Candidate
    from sparring.evals.siege import Defender

FAMILIES = "plain,draws,tree,escalation,prefill,random-suffix,gradient,pool,broad,own"
Defended = Annotated[str, Argument(metavar="DEFENDER", help="a run, a model's folder or name")]
At = Annotated[int | None, Option(min=0, help="of a run: rounds; default: the last checkpoint")]
Seeds = Annotated[list[str] | None, Option("--seeds", help="of a model: a file of seeds")]
JudgedBy = Annotated[str | None, Option("--judge", help="of a model: a kind or a YAML file")]
Adapter = Annotated[str | None, Option(help="of a model: a PEFT folder on it")]
Url = Annotated[str | None, Option(help="of a model: it is served here (…/v1)")]
KeyEnv = Annotated[str | None, Option(help="the variable that holds its key")]
Length = Annotated[int, Option(min=1, help="of a model's reply, in tokens")]


def attack(
    defender: Defended,
    families: Annotated[str, Option(help="names, with commas")] = FAMILIES,
    queries: Annotated[int, Option(min=1, help="to the defender about each seed")] = 32,
    gradient_steps: Annotated[int, Option(min=1, help="before each of its queries")] = 10,
    steps: Annotated[int, Option(min=1, help="of each attacker that learns")] = 80,
    restarts: Annotated[int, Option(min=1, help="of each attacker that learns")] = 3,
    limit: Annotated[int | None, Option(min=1, help="the first held-out seeds")] = None,
    leader: Annotated[str | None, Option(help="a chat model that writes attacks")] = None,
    leader_url: Annotated[str | None, Option(help="the leader is served here (…/v1)")] = None,
    at: At = None,
    seeds: Seeds = None,
    judge: JudgedBy = None,
    adapter: Adapter = None,
    base_url: Url = None,
    api_key_env: KeyEnv = None,
    max_completion_length: Length = 128,
    seed: Annotated[int, Option(help="of everything random")] = 0,
    trust_endpoints: TrustEndpoints = False,
    json: Json = False,
) -> None:
    """Attack a finished defender by search, talk, prefill, gradients, learning; the worst counts.

    Every query is on disk, and the same command goes on after a kill.
    """
    from sparring.evals.attack import Effort
    from sparring.evals.siege import Siege
    from sparring.report.progress import Bars

    names = [name.strip() for name in families.split(",")]
    known = [*FAMILIES.split(","), "enumeration"]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--families: {unknown[0]!r:.40} is none of {', '.join(known)}")
    model = _Model(seeds, judge, adapter, base_url, api_key_env, max_completion_length)
    with Bars(speech.console(stderr=True), json):
        attacked = _defender(defender, model, at, steps, trust_endpoints).first(limit)
        leads = _candidate(leader, leader_url) if leader else None
        siege = Siege(attacked, names, Effort(queries, gradient_steps), leads, seed, restarts)
        if names == [*siege.left_out()]:
            why = "; ".join(f"{name} {reason}" for name, reason in siege.left_out().items())
            raise UsageError(f"--families: {why}")
        note(*(f"left out: {name} {why}" for name, why in siege.left_out().items()), siege.cost())
        result = siege.run()
    lines = [f"{'family':16s} {'queries':>8s} {'seconds':>8s}  ASR@k, the worst first"]
    for name, row in result.families.items():
        rates = "  ".join(f"@{k} {rate}" for k, rate in row.asr.items() if k in ("1", str(queries)))
        spent = f"{row.queries or '-':>8} {row.seconds or '-':>8}"
        lines.append(f"{name:16s} {spent}  {rates}  ({row.about})")
    answer(json, result.to_json(), [*lines, f"written    {siege.folder / 'attack.json'}"])


_HELP = "a line is sent on in the talk; /new begins another, /next takes another request, /quit"


def play(
    defender: Defended,
    at: At = None,
    seeds: Seeds = None,
    judge: JudgedBy = None,
    adapter: Adapter = None,
    base_url: Url = None,
    api_key_env: KeyEnv = None,
    max_completion_length: Length = 128,
    pool: Annotated[Path | None, Option(help="add the attacks that worked to this pool")] = None,
    trust_endpoints: TrustEndpoints = False,
) -> None:
    """Attack a finished defender yourself: type what it is sent, see its reply and the verdict.

    Every game is kept beside the defender's other attacks.
    """
    from sparring.evals.folder import key_of
    from sparring.evals.searches import worked
    from sparring.evals.siege import Person
    from sparring.games.game import reply_of
    from sparring.store.files import Journal
    from sparring.store.folder import Folder

    model = _Model(seeds, judge, adapter, base_url, api_key_env, max_completion_length)
    attacked = _defender(defender, model, at, 1, trust_endpoints)
    folder = attacked.place("play")
    folder.mkdir(exist_ok=True)
    with Folder(folder).locked():
        person = Person(attacked.target, Journal(folder / "games.jsonl", key_of))
        place, talk = 0, None
        say(_HELP)
        say(f"request: {person.hunts[0].seed.text}")
        while (text := _typed()) != "/quit":
            if text in ("/new", "/next"):
                place = (place + (text == "/next")) % len(person.hunts)
                talk = None
                say(f"request: {person.hunts[place].seed.text}")
                continue
            talk = person.send(place, text, talk)
            happened = worked(talk).happened
            result = {True: "it worked", False: "it did not work", None: "not judged"}[happened]
            say(f"reply: {reply_of(talk) or '(none)'}")
            say(f"{result}: {talk.verdict}")
            if pool and happened and len(talk.moves) == 2:
                Journal(pool).append([person.in_pool(talk)])
    say(f"written    {person.journal.path}")


@dataclass(frozen=True)
class _Model:
    """How a defender is reached, and judged, that is no run."""

    seeds: list[str] | None
    judge: str | None
    adapter: str | None
    base_url: str | None
    api_key_env: str | None
    length: int


def _defender(
    name: str, model: _Model, at: int | None, steps: int, trust_endpoints: bool
) -> Defender:
    """Load what is attacked: the defender of a run's folder, or a model under test."""
    from sparring.data.readers import gathered
    from sparring.evals.exploit import Budget, Exploit
    from sparring.evals.models import ModelSettings
    from sparring.evals.siege import of_model, of_run
    from sparring.players.player import Sampling
    from sparring.runs.judges import judges_named

    if (Path(name) / "config.yaml").is_file():
        opened = speech.run_dir(Path(name))
        number, cache = opened.checkpoints.at(at), opened.folder.parent / "attackers"
        budget = Budget.of(opened.config, steps)
        return of_run(Exploit(opened, number, budget, cache, trust_endpoints=trust_endpoints))
    adapters, sampling = [model.adapter] if model.adapter else [], Sampling(1.0, model.length)
    base = not adapters
    tested = ModelSettings(
        *([name], sampling, adapters, base), base_url=model.base_url, api_key_env=model.api_key_env
    )
    judge = judges_named([model.judge], "--judge", trust_endpoints)[0] if model.judge else None
    seeds, notes = gathered([{"path": path} for path in model.seeds or ()])
    note(*notes)
    return of_model(tested, judge, seeds)


def _candidate(model: str, base_url: str | None) -> Candidate:
    """Return a chat model that writes attacks."""
    from sparring.evals.models import ModelSettings, candidates
    from sparring.players.player import Sampling

    [candidate], _ = candidates(ModelSettings([model], Sampling(1.0, 160), base_url=base_url))
    return candidate


def _typed() -> str:
    """Return the next line that a person types; the end of the input ends the game."""
    sys.stdout.write("> ")
    sys.stdout.flush()
    line = sys.stdin.readline()
    return (line.strip() or "?") if line else "/quit"

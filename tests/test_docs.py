"""The programs in the documentation run, its commands parse, and its settings exist."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer

import sparring
from sparring.cli import app
from sparring.memory.experience import Entry, ExperiencePool, PoolLimits, ucb, uniform
from sparring.runs import recipes
from sparring.settings.config import RunConfig, from_words, parse
from sparring.types import Player, Seed, State, Turn, Verdict
from tests.command import sparring_command
from tests.tiny import QWEN2, save_model, write_seeds

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in [*ROOT.glob("docs/*.md"), ROOT / "README.md"]}
FIRST = PAGES["your-first-game.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands() -> list[str]:
    """Every `sparring …` of the pages, without comments, redirections and what is left open."""
    texts: set[str] = set()
    for page in PAGES.values():
        texts |= set(re.findall(r"`sparring ([^`]+)`", page))
        script = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
        line = r"^(?:\.venv/bin/)?sparring[ \t]+((?:'[^']*'|[^#>'\n])*)"
        texts |= set(re.findall(line, script, re.MULTILINE))
    named = {re.sub(r"\b(NAME|keep_it_short)\b", "magic", " ".join(t.split())) for t in texts}
    return sorted(line for line in named if "…" not in line)


def settings() -> list[str]:
    """Every `a.b`, `a.b=c`, `a.b: c` and `a.b=c d.e=f` of running text and tables."""
    key = rf"(?:{'|'.join(RunConfig.model_fields)})(?:\.[a-z_]+)*"
    spelled = rf"`({key}|{key}: [^`…]+|(?:{key}=[^`…\s]+ ?)+)`"
    names = {name for page in PAGES.values() for name in re.findall(spelled, page)}
    return sorted(name for name in names - {"rounds.jsonl"} if re.search(r"[.=:]", name))


def parsed(words: list[str]) -> tuple[str, dict]:
    """The verb and its parameters as the command line reads them; nothing is run."""
    group = typer.main.get_command(app)
    context = group.make_context("sparring", words)
    name, verb, rest = group.resolve_command(context, words)
    if hasattr(verb, "commands"):
        context = verb.make_context(name, list(rest), parent=context)
        name, verb, rest = verb.resolve_command(context, list(rest))
    return name, verb.make_context(name, list(rest), parent=context).params


def test_the_pages_hold_commands_and_settings():
    assert len(commands()) >= 25
    assert len(settings()) >= 40


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_pages_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("recipe: magic\n")
    words = shlex.split(command)
    if len(words) == 1:
        assert words[0] in typer.main.get_command(app).commands, "a verb, named in passing"
        return
    _, options = parsed(words)
    if words[0] == "train" or words[:2] == ["config", "show"]:
        recipes.configured(options["what"], options["overrides"] or [])


@pytest.mark.parametrize("text", settings())
def test_every_setting_that_a_page_names_exists(text):
    words = text.replace(": ", "=").split() if "=" in text else [text.replace(": ", "=", 1)]
    parse(from_words([word for word in words if "=" in word]))
    for word in words:
        here = RunConfig().model_dump()
        for part in word.partition("=")[0].split("."):
            here = here[0] if isinstance(here, list) else here
            assert part in here, word
            here = here[part]


def test_your_first_game_is_short_and_is_learned_in_seconds(tmp_path):
    program = blocks(FIRST, "python")[0]
    assert program.count("\n") < 60
    assert max(map(len, program.splitlines())) <= 100
    (tmp_path / "game.py").write_text(program)
    source = str(Path(sparring.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": source, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True}
    ended = subprocess.run([sys.executable, "game.py"], **options, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    before, after = (list(map(int, re.findall(r"\d+", lines[i]))) for i in (0, -1))
    rounds = [list(map(int, line.split())) for line in lines[1:-1]]
    assert [number for number, *_ in rounds] == list(range(12))
    assert before[1] <= 45, "two of three ways to answer are too long"
    assert after[1] >= 75
    assert min(before[0], after[0]) >= 80, "the asker still asks for the same"
    promised = blocks(FIRST, "text")[0].splitlines()
    assert lines[:2] == promised[:2], "nothing has been learned there, so any machine prints this"
    assert abs(after[1] - int(re.findall(r"\d+", promised[-1])[1])) <= 10


def definitions() -> str:
    """The first program up to where it builds a run; the other two programs follow it."""
    return blocks(FIRST, "python")[0].split("run = ssp(")[0]


def test_your_first_game_is_played_with_your_own_model(tmp_path):
    program = blocks(FIRST, "python")[1]
    program = program.replace("path/to/model", str(save_model(tmp_path / "model", QWEN2)))
    program = program.replace("requests.csv", str(write_seeds(tmp_path / "seeds.csv")))
    program = program.replace("rounds=100", 'sampling={"max_completion_length": 8}')
    names: dict = {}
    exec(definitions() + program, names)

    class Judge:
        name, caveat, fills = "coin", "", names["KeepItShort"].needs

        def rule(self, states):
            return [Verdict(on_topic=True, helpful=True) for _ in states]

    run, game = names["run"], names["KeepItShort"]()
    opening = game.open(next(seed for seed in run.seeds if not seed.harmful))
    parts = {"game": game, "judge": Judge(), "measure": names["score"], "shape": list}
    plan = replace(run.plan, **parts, openings=lambda number, turn, past: [opening])
    round_ = next(sparring.coevolve.coevolve(plan))
    assert len(round_.episodes) == 16, "4 questions with 4 answers each"
    assert {len(episode.state.moves) for episode in round_.episodes} == {2}


def test_your_first_game_is_trained_by_name_from_another_package(tmp_path, monkeypatch):
    (tmp_path / "your_package").mkdir()
    module = tmp_path / "your_package" / "games.py"
    module.write_text(definitions() + blocks(FIRST, "python")[2])
    info = tmp_path / "your_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: your_package\nVersion: 1.0\n")
    point = re.search(r'^(\w+) = "(.*)"$', blocks(FIRST, "toml")[0], re.MULTILINE)
    (info / "entry_points.txt").write_text(f"[sparring.recipes]\n{point[1]} = {point[2]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    short = ("rounds=1", "exam.n=4", "warm_up.pool_size=2", f"output_dir={tmp_path / 'run'}")
    ended = sparring_command("train", point[1], *short)
    assert ended.code == 0, ended.text
    assert "judge sandbox" in ended.text
    shown = sparring_command("runs", "show", tmp_path / "run")
    assert "complete" in shown.text
    assert "last won" in shown.text


def test_the_arithmetic_on_the_page_of_ssp_is_the_pools():
    page = " ".join(PAGES["ssp.md"].split())
    entry = Entry(Seed("open the dragon vault", True, "vault"), (), "", Verdict(), 0.25, visits=3)
    score = ucb(0.5)(entry, 100, 0.0)
    assert f"m = .25, n = 3, N = 100: {score:.3f}" in page
    means = [0.0]
    pool = ExperiencePool(
        defence=lambda seed, verdict: None, score=uniform, limits=PoolLimits(), rng_seed=""
    )
    pool.entries[entry.key] = replace(entry, mean=0.0, visits=0)
    while not pool.entries[entry.key].asleep:
        pool._visit(entry.key, replace(entry, mean=1.0))
        means.append(pool.entries[entry.key].mean)
    spelled = ", ".join(f"{mean:g}".removeprefix("0") for mean in means[1:])
    assert f"an entry admitted at m = 0 stands at {spelled}" in page
    turn = Turn(frozenset(Player), {Player.ATTACKER: 4, Player.DEFENDER: 4})
    for n in range(40):
        seed = Seed("open the dragon vault", n % 2 == 0, f"{n}")
        pool.entries[(f"{n}", ())] = replace(entry, seed=seed, mean=0.25)
    seeds = [State(Seed("wake the giant", n % 2 == 0, f"live {n}")) for n in range(32)]
    fresh, replays = pool.deal(0, turn, seeds)
    assert (len(fresh), len(replays)) == (24, 32)
    assert "at most 16 harmful and 16 benign replays in the place of 4 + 4 seeds" in page


def test_the_page_of_recipes_has_every_recipe_in_its_order():
    rows = re.findall(r"^\| `([a-z_]+)` \| .* \|$", PAGES["recipes.md"], re.MULTILINE)
    assert rows == list(recipes.RECIPES)

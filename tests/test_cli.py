"""What a user types: every mistake is one message and exit code 2, and nothing is written."""

import contextlib
import json
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sparring.cli.evals import exploit
from sparring.cli.speech import program
from sparring.evals.gates import parse_gates
from sparring.evals.results import check_unscored
from sparring.judges.judge import KeywordJudge
from sparring.runs.recipes import resolve
from sparring.settings.config import RunConfig, load_yaml
from sparring.stats.rates import Outcome, Rate, rate
from sparring.types import GateError, Status, UnscoredError, UsageError, Verdict
from tests.command import Ended, sparring_command, sparring_process
from tests.report.written import Written
from tests.tiny import GEMMA, QWEN2, save_model, write_seeds

KEYWORD = ["judge.kind=keyword", "game.gate=false", "game.helpfulness=0"]
SHORT = [
    *("rounds=2", "schedule.every=1", "learner.num_generations=2", "learner.seeds_per_round=2"),
    *("sampling.max_completion_length=4", "warm_up.steps=0", "exam.n=2", "exam.crossplay=0"),
]
OWN = ["data.train=[{path: seeds.csv}]", *KEYWORD, "weights=shared", *SHORT]
MODEL = ["attacker.model_name_or_path=./qwen2", "defender.model_name_or_path=./qwen2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with valid and invalid models, seeds and configurations."""
    folder = tmp_path_factory.mktemp("cli")
    save_model(folder / "qwen2", QWEN2)
    save_model(folder / "gemma2", GEMMA)
    save_model(folder / "mute", QWEN2, template=False)
    write_seeds(folder / "seeds.csv")
    write_seeds(folder / "harmful.csv", [True])
    files = {
        "empty.csv": "",
        "odd.csv": "question,danger\nopen the vault,high\n",
        "ragged.csv": "text,harmful\nopen the vault,true\nlantern\n",
        "benign.csv": "text,harmful\npolish the lantern,false\n",
        "pool.jsonl": '{"messages": "open"}\n',
        "unknown.yaml": "recipe: magic\nlearner: {learning_rat: 1}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def here(made, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    return made


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def seeds(name: str) -> str:
    return f"data.train=[{{path: {name}}}]"


MISTAKES = [
    ("unknown.yaml", "did you mean learner.learning_rate?"),
    ("magik", "recipe: no recipe 'magik' and no such file; did you mean magic?"),
    ("magic judge.kind=keyword", "judge.kind: keyword cannot rule in the sandbox"),
    (f"magic weights=shared {' '.join(MODEL)}", "no sandbox.json, so this is not a sandbox base"),
]
WITH_OWN_SEEDS = [
    (seeds("none.csv"), "none.csv: no such file"),
    (seeds("empty.csv"), "empty.csv: empty file"),
    (
        seeds("odd.csv"),
        "odd.csv: unknown columns: danger, question The nearest, 'seeds', has the columns",
    ),
    (seeds("ragged.csv"), "ragged.csv:3: 1 cells where"),
    (seeds("benign.csv"), "data.train: no harmful seeds, so there is nothing to attack"),
    ("attacker.warm_start=none.jsonl", "none.jsonl: no such"),
    ("attacker.warm_start=pool.jsonl", "pool.jsonl:1: wanted"),
    (" ".join(MODEL).replace("qwen2", "mute"), "mute has no chat template; an instruction-tuned"),
    (" ".join(MODEL).replace("qwen2", "none"), "model_name_or_path: no model at ./none"),
    (
        "weights=adapters attacker.model_name_or_path=./gemma2",
        "weights: adapters needs one base, but attacker.model_name_or_path and "
        "defender.model_name_or_path differ; make them equal or set weights=separate",
    ),
    (
        "game.gate=true game.helpfulness=1",
        "judge.kind: keyword does not fill helpful, on_topic, which the game needs; add a judge "
        "that does, or set game.helpfulness=0 and set game.gate=false",
    ),
    (
        "judge.kind=sandbox",
        "judge.kind: sandbox cannot judge your own seeds, for its judge only knows",
    ),
    ("output_dir=qwen2", "output_dir: qwen2 exists; go on with it (--resume), or choose another"),
    ("'output_dir=runs/.hidden run'", "output_dir: '.hidden run' is no name for a folder"),
    ("output_dir=qwen2 --resume", "qwen2: not a run"),
]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *((shlex.split(text), message) for text, message in MISTAKES),
        *(
            (["magic", *OWN, *MODEL, *([text] if "{" in text else shlex.split(text))], message)
            for text, message in WITH_OWN_SEEDS
        ),
    ],
)
def test_a_mistake_is_one_message_and_exit_2_and_nothing_is_written(here, words, message):
    before = everything(here)
    ended = sparring_command("train", *words)
    assert (ended.code, message in ended.text) == (2, True), ended.err
    assert everything(here) == before


def test_in_a_process_of_its_own_a_mistake_leaves_no_trace_and_no_line_is_broken(here):
    ended = sparring_process("train", "magic", "lerner.beta=1", cwd=here)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "sparring: lerner: unknown key; did you mean learner?\n"
    place = f"runs/[a]/{'long-' * 24}run"
    run = ["train", "magic", *OWN, *MODEL, f"output_dir={place}", "--dry-run"]
    ended = sparring_process(*run, cwd=here)
    assert f"sparring train magic → {place}" in ended.out.splitlines()
    assert len(KeywordJudge().caveat) > 200
    assert KeywordJudge().caveat in ended.err.splitlines()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--help",), f"  exploit    {exploit.__doc__}"),
        (
            ("exploit", "--help"),
            "  --cache <path>       of warmed-up attackers; default: attackers/ beside the run",
        ),
        (
            ("judge", "calibrate", "--help"),
            "  Without --judge: the judges whose verdicts stand in the file. Figures of another ",
        ),
        (("runs", "show"), "Error: Missing argument "),
        (
            ("eval", "--epochs", "x"),
            "Error: Invalid value for '--epochs': Input should be a valid integer, unable to ",
        ),
        (("pool", "make", "--odd"), "Error: No such option: --odd"),
    ],
)
def test_help_and_errors_that_are_redirected_are_plain_whole_lines(here, words, line):
    ended = sparring_process(*words, cwd=here)
    both = ended.out + ended.err
    assert [shown for shown in both.splitlines() if shown.startswith(line)]
    assert not set("│─╭╰") & set(both), "a box"


def test_a_message_cannot_move_the_cursor(here):
    ended = sparring_command("train", "magic", "\x1b[2Jrounds=1")
    assert ended.code == 2
    assert "\x1b" not in ended.out + ended.err


def test_a_dry_run_checks_everything_shows_the_plan_and_writes_nothing(here):
    before = everything(here)
    run = ["train", "magic", *OWN, *MODEL, "output_dir=dry", "--dry-run"]
    ended = sparring_command(*run)
    assert ended.code == 0
    assert "round 0: defender learns from 2 seeds" in ended.text
    assert "round 1: attacker learns from 2 seeds" in ended.text
    assert "2 rounds into dry; nothing was written" in ended.text
    assert KeywordJudge().caveat in ended.text
    assert sparring_command(*run, seeds("none.csv")).code == 2
    assert sparring_command(*run, "output_dir=.").code == 2
    assert sparring_command(*run, "--resume").code == 2
    harmful = sparring_command(*run, seeds("harmful.csv"))
    assert (harmful.code, "no benign seeds: over-refusal is not" in harmful.text) == (0, True)
    assert everything(here) == before


def test_a_run_stops_and_goes_on_but_not_with_other_settings_or_seeds(here, tmp_path):
    own, folder = tmp_path / "own.csv", tmp_path / "run"
    own.write_bytes((here / "seeds.csv").read_bytes())
    run = ["train", "magic", *OWN, seeds(str(own)), *MODEL, f"output_dir={folder}"]

    def lines() -> list[bytes]:
        return (folder / "rounds.jsonl").read_bytes().splitlines()

    assert sparring_command(*run, "--max-rounds", 1).code == 0
    again = sparring_command(*run)
    assert (again.code, "exists; go on with it (--resume)" in again.text) == (2, True)
    other = sparring_command(*run, "learner.beta=0.5", "seed=7", "--resume")
    assert other.code == 2
    assert "was started with other settings" in other.text
    assert "seed: 42 → 7 learner.beta: 0.0 → 0.5" in other.text
    text = own.read_text()
    own.write_text(text.replace("dragon", "marble"))
    changed = sparring_command(*run, "--resume")
    assert (changed.code, "data.train: not the seeds that " in changed.text) == (2, True)
    assert len(lines()) == 1
    own.write_text(text)
    assert sparring_command(*run, "--resume").code == 0
    done = lines()
    assert sparring_command(*run, "--resume").code == 0, "already complete"
    assert lines() == done


def test_config_show_resolves_defaults_below_the_file_below_the_command_line(here, tmp_path):
    (tmp_path / "own.yaml").write_text("rounds: 7\nseed: 8\n")
    for words in (["--seed", 9], ["--seed=9"], ["seed=9"]):
        ended = sparring_command("config", "show", tmp_path / "own.yaml", *words)
        config = resolve(load_yaml(ended.out, "shown"))
        assert (ended.code, config.rounds, config.seed) == (0, 7, 9)
        assert config.learner.epsilon == RunConfig().learner.epsilon


def test_the_schema_the_commented_defaults_the_version_and_the_machine_are_printed():
    schema = json.loads(sparring_command("config", "schema").out)
    assert schema == RunConfig.model_json_schema()
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    ended = sparring_command("init")
    assert ended.code == 0
    defaults = RunConfig().model_dump(mode="json")
    assert resolve(load_yaml(ended.out, "init")) == resolve({"recipe": "magic"} | defaults)
    assert sparring_command("init", "magik").code == 2
    assert sparring_command("version").out == version("sparring") + "\n"
    machine = json.loads(sparring_command("env").out)
    assert machine["versions"]["torch"] == version("torch")


EVAL = ["eval", "./qwen2", "--tasks"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "none"], "none: not a run"),
        (["runs", "show", "none"], "none: not a run"),
        (["runs", "tail", "none"], "none: not a run"),
        ([*EVAL, "none.csv", "--judge", "keyword"], "none.csv: no such file"),
        ([*EVAL, "seeds.csv"], "--judge: sandbox cannot judge your own seeds"),
        (["eval", "sandbox", "--tasks", "seeds.csv"], "--judge: sandbox cannot judge your own"),
        ([*EVAL, "seeds.csv", "--judge", "x"], "--judge: there is no judge 'x'; known: keyword"),
        ([*EVAL, "sandbox"], "no sandbox.json"),
        (["eval", "./none", "--tasks", "seeds.csv", "--judge", "keyword"], "no model at ./none"),
        ([*EVAL, "seeds.csv,./seeds.csv", "--judge", "keyword"], "two files are called seeds"),
        (
            [*EVAL, "seeds.csv", "--judge", "keyword", "--adapter", "gemma2"],
            "--adapter: no adapter_config.json in gemma2",
        ),
        (["eval", "./qwen2"], "Missing option '--tasks'"),
        (["trian"], "No such command 'trian'"),
    ],
)
def test_every_other_verb_refuses_with_exit_2_too(here, words, message):
    ended = sparring_command(*words)
    assert (ended.code, message in ended.text) == (2, True), ended.err


def test_rounds_are_lines_and_figures_have_three_digits(tmp_path):
    run = Written(rounds=20).at(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    metrics = {"asr": 1 / 3, "attacker/reward": 2 / 3, "tokens": 123456, "seconds": 123456.789}
    lines[-1]["metrics"] = metrics
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = sparring_command("runs", "show", run).out.splitlines()
    numbers = {line.split()[1]: line.split()[2] for line in shown if line.startswith("last ")}
    assert [*numbers.values()] == ["0.333", "0.667", "123456", "123457"]
    tail = sparring_command("runs", "tail", run, "-n", 2).out.splitlines()
    assert tail[1] == "round 20  attacker learned: asr 0.33"
    as_json = sparring_command("runs", "tail", run, "-n", 1, "--json").out
    assert json.loads(as_json)["metrics"] == metrics


@pytest.mark.parametrize(
    ("called", "on_path", "name"),
    [
        ("bin/sparring", "bin/sparring", "sparring"),
        ("bin/sparring", None, "bin/sparring"),
        ("bin/sparring", "other/sparring", "bin/sparring"),
        ("lib/sparring/__main__.py", "bin/sparring", f"{sys.executable} -m sparring"),
    ],
)
def test_the_next_command_is_one_that_works_here(tmp_path, monkeypatch, called, on_path, name):
    for place in ("bin", "other"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "sparring").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr("shutil.which", lambda _: on_path)
    assert program() == name


def test_no_runs_are_no_error(tmp_path):
    listed = ("runs", "list", "--folder", tmp_path)
    assert sparring_command(*listed) == Ended(0, "", "")
    assert json.loads(sparring_command(*listed, "--json").out) == []


DAMAGES = {
    "rounds.jsonl": ('{"round": 0}\n{"round": 2}\n', "rounds.jsonl:1: is not what was written"),
    "run.json": ('["complete"]', "run.json: is not what was written"),
}


@pytest.mark.parametrize("file", DAMAGES)
def test_a_damaged_run_is_listed_as_such_among_the_others(tmp_path, file):
    for name in ("a", "b", "c"):
        Written(rounds=20).at(tmp_path / name)
    damage, message = DAMAGES[file]
    (tmp_path / "b" / file).write_text(damage)
    for_people = sparring_command("runs", "list", "--folder", tmp_path)
    a, b, c = for_people.out.splitlines()
    # run.json has the number of rounds when it was written; those that are there count
    assert a == f"{tmp_path / 'a'!s:32s}    20 rounds  some status"
    assert c.endswith("20 rounds  some status")
    assert "? rounds  damaged: " + file in b
    assert message in b
    assert for_people.err == f"sparring: {tmp_path}: 1 of 3 runs cannot be read\n"
    for_machines = sparring_command("runs", "list", "--folder", tmp_path, "--json")
    rows = json.loads(for_machines.out)
    whole = (20, "some status")
    assert [(row["rounds"], row["status"]) for row in rows] == [whole, (None, "damaged"), whole]
    assert message in rows[1]["damage"]
    assert (for_people.code, for_machines.code) == (1, 1)


def evaluated(*more: object) -> Ended:
    return sparring_command(
        *EVAL, "seeds.csv", "--judge", "keyword", "--max-completion-length", 4, *more
    )


def test_eval_prints_the_rates_and_the_judge_they_rest_on_for_machines_and_for_people(here):
    ended = evaluated("--json")
    answer = json.loads(ended.out)
    assert ended.code == 0
    assert set(answer["rates"]) == {"asr/seeds", "over_refusal/seeds"}
    assert answer["rates"]["asr/seeds"]["n_total"] == 4
    assert "keyword is a stand-in" in answer["judge"]["caveat"]
    ended = evaluated("--limit", 2)
    assert ended.text.count("n=2") == 2
    assert "keyword is a stand-in" in ended.text


@pytest.mark.parametrize(
    ("gates", "code", "message"),
    [
        (["asr/seeds<0", "over_refusal/seeds>=0"], 4, "--fail-if over_refusal/seeds>=0"),
        (["asr/seeds>1"], 0, ""),
        (["asr/other>0.5"], 2, "RATE>NUMBER with a rate of: asr/seeds, over_refusal/seeds"),
    ],
)
def test_a_gate_that_is_crossed_is_exit_4_and_one_on_no_rate_exit_2(here, gates, code, message):
    ended = evaluated(*(word for gate in gates for word in ("--fail-if", gate)))
    assert (ended.code, message in ended.text) == (code, True)


def rates(scored: int, unscored: int) -> dict[str, Rate]:
    ruled = [Outcome(n % 2 == 0, f"s{n}") for n in range(scored)]
    left = [Outcome(None, f"u{n}", "timeout") for n in range(unscored)]
    return {"asr/x.v2": rate([*ruled, *left])}


def check_limits(measured: dict[str, Rate], limits: list[str], most: float) -> None:
    """In the order of the verb."""
    check_unscored(measured.values(), most)
    for limit in parse_gates(limits, list(measured)):
        limit.check(measured)


def test_too_many_missing_verdicts_are_an_error_before_any_gate():
    check_limits(rates(99, 1), [], 0.01)
    with pytest.raises(UnscoredError, match="2 of 100 verdicts are missing") as error:
        check_limits(rates(98, 2), ["asr/x.v2>0"], 0.01)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("limit", "scored", "error"),
    [
        *((f"asr/x.v2{limit}", 10, GateError) for limit in (">0.49", ">=0.5", "<=0.5", "<0.51")),
        *((f"asr/x.v2{limit}", 10, None) for limit in (">0.5", "<0.5", " >= 0.51 ")),
        ("asr/x.v2>0.9", 0, GateError),  # a rate without a value passes no gate
        *((text, 10, UsageError) for text in ("asr/x.v2", "asr/x.v2=0.5", "asr/x.v2>half", "")),
    ],
)
def test_a_gate_closes_where_the_rate_crosses_its_limit(limit, scored, error):
    expected = pytest.raises(error) if error else contextlib.nullcontext()
    with expected:
        check_limits(rates(scored, 3 if scored == 0 else 0), [limit], 1.0)


def test_the_command_line_exits_3_when_too_many_are_unscored(here, monkeypatch):
    rule = KeywordJudge.rule
    blind = Verdict(status=Status.TIMEOUT)
    monkeypatch.setattr(KeywordJudge, "rule", lambda me, states: [blind, *rule(me, states[1:])])
    ended = evaluated("--output", "blind", "--batch", 8)
    assert (ended.code, "2 of 8 verdicts are missing" in ended.text) == (3, True)
    assert evaluated("--output", "blind", "--batch", 8, "--max-unscored", 0.25).code == 0

"""What a user types: every mistake is one message and exit code 2, and nothing is written."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from sparring.evals.results import check_unscored, parse_gates
from sparring.judges.judge import KeywordJudge
from sparring.runs.recipes import resolve
from sparring.settings.config import RunConfig, load_yaml
from sparring.stats.rates import Outcome, Rate, rate
from sparring.types import GateError, Status, UnscoredError, UsageError, Verdict
from tests.command import Told, sparring_command, sparring_process
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
    """Models, seeds and configurations, good and bad."""
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
        "twice.yaml": "recipe: magic\nrounds: 3\nrounds: 4\n",
        "bomb.yaml": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "code.yaml": "recipe: !!python/object/apply:os.getcwd []\n",
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


MISTAKES = {
    "unknown key": (["magic", "lerner.beta=1"], "lerner: unknown key; did you mean learner?"),
    "unknown key in a file": (["unknown.yaml"], "did you mean learner.learning_rate?"),
    "wrong type": (["magic", "rounds=many"], "rounds: Input should be a valid integer"),
    "unknown recipe": (
        ["magik"],
        "recipe: no recipe 'magik' and no such file; did you mean magic?",
    ),
    "no configuration": (["none.yaml"], "none.yaml: no such file"),
    "duplicate key": (["twice.yaml"], "twice.yaml: line 3: rounds is given twice"),
    "alias bomb": (["bomb.yaml"], "bomb.yaml: aliases (*name) are not allowed"),
    "python tag": (["code.yaml"], "code.yaml: not YAML: could not determine a constructor"),
    "no value": (["magic", "rounds"], "rounds: wanted key=value or --key value"),
    "option first": (["--rounds", "3", "magic"], "--rounds: name the recipe or the YAML file"),
    "group of one": (
        ["magic", "learner.num_generations=1"],
        "learner: num_generations of the attacker must be at least 2",
    ),
    "no data file": (["magic", *OWN, *MODEL, seeds("none.csv")], "none.csv: no such file"),
    "empty data": (["magic", *OWN, *MODEL, seeds("empty.csv")], "empty.csv: empty file"),
    "unknown columns": (
        ["magic", *OWN, *MODEL, seeds("odd.csv")],
        "odd.csv: unknown columns: danger, question known headers: HarmBench text behaviors: ",
    ),
    "ragged row": (["magic", *OWN, *MODEL, seeds("ragged.csv")], "ragged.csv:3: 1 cells where"),
    "no harmful seeds": (
        ["magic", *OWN, *MODEL, seeds("benign.csv")],
        "data.train: no harmful seeds, so there is nothing to attack",
    ),
    "no pool": (["magic", *OWN, *MODEL, "attacker.warm_start=none.jsonl"], "none.jsonl: no such"),
    "broken pool": (
        ["magic", *OWN, *MODEL, "attacker.warm_start=pool.jsonl"],
        "pool.jsonl:1: wanted",
    ),
    "no chat template": (
        ["magic", *OWN, *(word.replace("qwen2", "mute") for word in MODEL)],
        "mute has no chat template; an instruction-tuned model is needed",
    ),
    "no model": (
        ["magic", *OWN, *(word.replace("qwen2", "none") for word in MODEL)],
        "model_name_or_path: no model at ./none",
    ),
    "two bases": (
        ["magic", *OWN, *MODEL, "weights=adapters", "attacker.model_name_or_path=./gemma2"],
        "weights: adapters needs one base, but attacker.model_name_or_path and "
        "defender.model_name_or_path differ; make them equal or set weights=separate",
    ),
    "gate without a judge of faithfulness": (
        ["magic", *OWN, *MODEL, "game.gate=true", "game.helpfulness=1"],
        "judge.kind: keyword does not fill helpful, on_topic, which the game needs; add a judge "
        "that does, or set game.helpfulness=0 and set game.gate=false",
    ),
    "gate alone": (["magic", *OWN, *MODEL, "game.gate=true"], "or set game.gate=false"),
    "the sandbox's judge on other seeds": (
        ["magic", *OWN, *MODEL, "judge.kind=sandbox"],
        "judge.kind: sandbox cannot judge your own seeds; known: keyword",
    ),
    "another judge in the sandbox": (
        ["magic", "judge.kind=keyword"],
        "judge.kind: keyword cannot rule in the sandbox",
    ),
    "another model in the sandbox": (
        ["magic", "weights=shared", *MODEL],
        "no sandbox.json, so this is not a sandbox base; give data.train a seed file",
    ),
    "a folder that exists": (
        ["magic", *OWN, *MODEL, "output_dir=qwen2"],
        "output_dir: qwen2 exists; go on with it (--resume), or choose another",
    ),
    "a name that is none": (
        ["magic", *OWN, *MODEL, "output_dir=runs/.hidden run"],
        "output_dir: '.hidden run' is no name for a run",
    ),
    "nothing to resume": (
        ["magic", *OWN, *MODEL, "output_dir=qwen2", "--resume"],
        "qwen2: not a run",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_and_exit_2_and_nothing_is_written(here, mistake):
    words, message = MISTAKES[mistake]
    before = everything(here)
    told = sparring_command("train", *words)
    assert (told.code, message in told.text) == (2, True), told.err
    assert everything(here) == before


def test_a_mistake_in_a_process_of_its_own_leaves_no_trace(here):
    told = sparring_process("train", "magic", "lerner.beta=1", cwd=here)
    assert (told.code, told.out) == (2, "")
    assert told.err == "sparring: lerner: unknown key; did you mean learner?\n"


def test_a_long_path_is_told_on_one_line_so_that_it_can_be_copied(here):
    place = f"runs/[a]/{'long-' * 24}run"
    told = sparring_process("train", "magic", f"output_dir={place}", "judge.kind=x", cwd=here)
    assert told.out.splitlines() == [f"sparring train magic → {place}"]


def test_a_message_cannot_move_the_cursor(here):
    told = sparring_command("train", "magic", "\x1b[2Jrounds=1")
    assert told.code == 2
    assert "\x1b" not in told.out + told.err


def test_a_missing_benign_label_is_a_warning_not_an_error(here):
    told = sparring_command("train", "magic", *OWN, *MODEL, seeds("harmful.csv"), "--dry-run")
    assert told.code == 0
    assert "no benign seeds: over-refusal is not measured" in told.text


def test_a_dry_run_checks_everything_tells_the_plan_and_writes_nothing(here):
    before = everything(here)
    told = sparring_command("train", "magic", *OWN, *MODEL, "output_dir=dry", "--dry-run")
    assert told.code == 0
    assert "round 0: defender learns from 2 seeds" in told.text
    assert "round 1: attacker learns from 2 seeds" in told.text
    assert "2 rounds into dry; nothing was written" in told.text
    assert KeywordJudge().caveat in told.text
    assert everything(here) == before
    assert (
        sparring_command("train", "magic", *OWN, *MODEL, seeds("none.csv"), "--dry-run").code == 2
    )


def test_a_run_stops_and_goes_on_but_not_with_other_settings(here, tmp_path):
    run = ["train", "magic", *OWN, *MODEL, f"output_dir={tmp_path / 'run'}"]
    assert sparring_command(*run, "--max-rounds", 1).code == 0
    assert len((tmp_path / "run/rounds.jsonl").read_text().splitlines()) == 1
    again = sparring_command(*run)
    assert (again.code, "exists; go on with it (--resume)" in again.text) == (2, True)
    other = sparring_command(*run, "learner.beta=0.5", "seed=7", "--resume")
    assert other.code == 2
    assert "was started with other settings" in other.text
    assert "seed: 42 → 7 learner.beta: 0.0 → 0.5" in other.text
    assert len((tmp_path / "run/rounds.jsonl").read_text().splitlines()) == 1
    assert sparring_command(*run, "--resume").code == 0
    done = (tmp_path / "run/rounds.jsonl").read_bytes()
    assert sparring_command(*run, "--resume").code == 0, "already complete"
    assert (tmp_path / "run/rounds.jsonl").read_bytes() == done


def test_a_run_does_not_go_on_with_other_seeds(here, tmp_path):
    own = tmp_path / "own.csv"
    own.write_bytes((here / "seeds.csv").read_bytes())
    folder = tmp_path / "run"
    run = ["train", "magic", *OWN, f"data.train=[{{path: {own}}}]", *MODEL, f"output_dir={folder}"]
    assert sparring_command(*run, "--max-rounds", 1).code == 0
    as_it_was = own.read_text()
    own.write_text(as_it_was.replace("dragon", "marble"))
    told = sparring_command(*run, "--resume")
    assert (told.code, "data.train: not the seeds that " in told.text) == (2, True)
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 1
    own.write_text(as_it_was)
    assert sparring_command(*run, "--resume").code == 0


def test_config_show_resolves_defaults_below_the_file_below_the_command_line(here, tmp_path):
    (tmp_path / "own.yaml").write_text("rounds: 7\nseed: 8\n")
    told = sparring_command("config", "show", tmp_path / "own.yaml", "--seed", 9)
    config = resolve(load_yaml(told.out, "shown"))
    assert (told.code, config.rounds, config.seed) == (0, 7, 9)
    assert config.learner.epsilon == RunConfig().learner.epsilon


def test_overrides_may_be_written_in_every_usual_way_in_front_of_options_too():
    ways = (
        ["learner.num_generations=4"],
        ["--learner.num_generations=4"],
        ["--learner.num-generations", 4],
    )
    for words in ways:
        shown = sparring_command("config", "show", "magic", *words, "--seed=1", "rounds=3")
        config = resolve(load_yaml(shown.out, "shown"))
        assert (config.learner.num_generations.attacker, config.seed, config.rounds) == (4, 1, 3)


def test_config_schema_is_the_json_schema_of_a_run():
    told = json.loads(sparring_command("config", "schema").out)
    assert told == RunConfig.model_json_schema()


def test_init_writes_the_defaults_with_every_field_explained():
    told = sparring_command("init")
    assert told.code == 0
    assert resolve(load_yaml(told.out, "init")) == resolve({"recipe": "magic"} | DEFAULTS)
    assert sparring_command("init", "magik").code == 2


DEFAULTS = RunConfig().model_dump(mode="json")


def test_version_and_environment_say_what_is_installed():
    assert sparring_command("version").out == version("sparring") + "\n"
    told = json.loads(sparring_command("env").out)
    assert told["versions"]["torch"] == version("torch")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "none"], "none: not a run"),
        (["runs", "show", "none"], "none: not a run"),
        (["runs", "tail", "none"], "none: not a run"),
        (
            ["eval", "./qwen2", "--tasks", "none.csv", "--judge", "keyword"],
            "none.csv: no such file",
        ),
        (
            ["eval", "./qwen2", "--tasks", "seeds.csv"],
            "--judge: sandbox cannot judge your own seeds",
        ),
        (
            ["eval", "sandbox", "--tasks", "seeds.csv"],
            "--judge: sandbox cannot judge your own seeds",
        ),
        (["eval", "./qwen2", "--tasks", "seeds.csv", "--judge", "x"], "--judge: x cannot judge"),
        (["eval", "./qwen2", "--tasks", "sandbox"], "no sandbox.json"),
        (
            ["eval", "./none", "--tasks", "seeds.csv", "--judge", "keyword"],
            "model_name_or_path: no model at ./none",
        ),
        (
            ["eval", "./qwen2", "--tasks", "seeds.csv,./seeds.csv", "--judge", "keyword"],
            "--tasks: two files are called seeds",
        ),
        (
            [
                "eval",
                "./qwen2",
                "--tasks",
                "seeds.csv",
                "--judge",
                "keyword",
                "--adapter",
                "gemma2",
            ],
            "--adapter: no adapter_config.json in gemma2",
        ),
        (["eval", "./qwen2"], "Missing option '--tasks'"),
        (["trian"], "No such command 'trian'"),
    ],
)
def test_every_other_verb_refuses_with_exit_2_too(here, words, message):
    told = sparring_command(*words)
    assert (told.code, message in told.text) == (2, True), told.err


def test_no_runs_are_no_error(here, tmp_path):
    assert sparring_command("runs", "list", "--folder", tmp_path) == Told(0, "", "")
    assert json.loads(sparring_command("runs", "list", "--folder", tmp_path, "--json").out) == []


DAMAGES = {
    "rounds.jsonl": ('{"round": 0}\n{"round": 2}\n', "rounds.jsonl:1: is not what was written"),
    "run.json": ('["complete"]', "run.json: is not what was written"),
}


@pytest.mark.parametrize("file", DAMAGES)
def test_a_damaged_run_is_listed_as_such_among_the_others(tmp_path, file):
    for name in ("a", "b", "c"):
        Written(rounds=20).at(tmp_path / name)
    told, why = DAMAGES[file]
    (tmp_path / "b" / file).write_text(told)
    for_people = sparring_command("runs", "list", "--folder", tmp_path)
    a, b, c = for_people.out.splitlines()
    assert a.endswith("20 rounds  some status")
    assert c.endswith("20 rounds  some status")
    assert "? rounds  damaged: " + file in b
    assert why in b
    assert for_people.err == f"sparring: {tmp_path}: 1 of 3 runs cannot be read\n"
    for_machines = sparring_command("runs", "list", "--folder", tmp_path, "--json")
    rows = json.loads(for_machines.out)
    assert [(row["rounds"], row["status"]) for row in rows] == [
        *((20, "some status"), (None, "damaged"), (20, "some status"))
    ]
    assert why in rows[1]["damage"]
    assert (for_people.code, for_machines.code) == (1, 1)


def test_the_list_counts_the_rounds_that_are_there(tmp_path):
    """run.json tells how many there were when it was written, such as when the run began."""
    folder = Written(rounds=20).at(tmp_path / "run")
    (folder / "run.json").write_text(
        '{"status": "started", "time": "2026-11-28T22:06:13", "rounds": 0}'
    )
    told = sparring_command("runs", "list", "--folder", tmp_path)
    assert told == Told(0, f"{folder!s:32s}    20 rounds  started\n", "")


def asked(*more: object) -> Told:
    words = ["--tasks", "seeds.csv", "--judge", "keyword", "--max-completion-length", 4]
    return sparring_command("eval", "./qwen2", *words, *more)


def test_eval_tells_rates_as_json_with_the_judge_they_rest_on(here):
    told = asked("--json")
    answer = json.loads(told.out)
    assert told.code == 0
    assert set(answer["rates"]) == {"asr/seeds", "over_refusal/seeds"}
    assert answer["rates"]["asr/seeds"]["n_total"] == 4
    assert "keyword is a stand-in" in answer["judge"]["caveat"]


def test_eval_tells_a_person_the_rates_and_the_caveat(here):
    told = asked("--limit", 2)
    assert told.text.count("n=2") == 2
    assert "keyword is a stand-in" in told.text


def test_a_gate_that_is_crossed_is_exit_4_and_one_that_holds_is_exit_0(here):
    told = asked("--fail-if", "asr/seeds<0", "--fail-if", "over_refusal/seeds>=0")
    assert (told.code, "--fail-if over_refusal/seeds>=0" in told.text) == (4, True)
    assert asked("--fail-if", "asr/seeds>1").code == 0


def test_a_gate_on_a_rate_that_is_not_there_lists_those_that_are(here):
    told = asked("--fail-if", "asr/other>0.5")
    assert told.code == 2
    assert "wanted RATE>NUMBER with a rate of: asr/seeds, over_refusal/seeds" in told.text


def rates(scored: int, unscored: int) -> dict[str, Rate]:
    told = [Outcome(n % 2 == 0, f"s{n}") for n in range(scored)]
    left = [Outcome(None, f"u{n}", "timeout") for n in range(unscored)]
    return {"asr/x.v2": rate([*told, *left])}


def check_limits(told: dict[str, Rate], limits: list[str], most: float) -> None:
    """In the order of the verb."""
    check_unscored(told.values(), most)
    for limit in parse_gates(limits, list(told)):
        limit.check(told)


def test_too_many_missing_verdicts_are_an_error_before_any_gate():
    check_limits(rates(99, 1), [], 0.01)
    with pytest.raises(UnscoredError, match="2 of 100 verdicts are missing") as error:
        check_limits(rates(98, 2), ["asr/x.v2>0"], 0.01)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    "limit", ["asr/x.v2>0.49", "asr/x.v2>=0.5", "asr/x.v2<=0.5", "asr/x.v2<0.51"]
)
def test_a_limit_that_the_rate_crosses_closes_the_gate(limit):
    with pytest.raises(GateError):
        check_limits(rates(10, 0), [limit], 0.0)


@pytest.mark.parametrize("limit", ["asr/x.v2>0.5", "asr/x.v2<0.5", " asr/x.v2 >= 0.51 "])
def test_a_limit_that_the_rate_keeps_leaves_the_gate_open(limit):
    check_limits(rates(10, 0), [limit], 0.0)


def test_a_rate_without_a_value_passes_no_gate():
    with pytest.raises(GateError):
        check_limits(rates(0, 3), ["asr/x.v2>0.9"], 1.0)


@pytest.mark.parametrize("limit", ["asr/x.v2", "asr/x.v2=0.5", "asr/x.v2>half", "asr>0.5", ""])
def test_a_limit_that_cannot_be_read_is_refused(limit):
    with pytest.raises(UsageError, match="wanted RATE>NUMBER"):
        check_limits(rates(10, 0), [limit], 0.0)


def test_the_command_line_exits_3_when_too_many_are_unscored(here, monkeypatch):
    rule = KeywordJudge.rule
    blind = Verdict(status=Status.TIMEOUT)
    monkeypatch.setattr(KeywordJudge, "rule", lambda me, told: [blind, *rule(me, told[1:])])
    told = asked("--output", "blind", "--batch", 8)
    assert (told.code, "2 of 8 verdicts are missing" in told.text) == (3, True)
    assert asked("--output", "blind", "--batch", 8, "--max-unscored", 0.25).code == 0

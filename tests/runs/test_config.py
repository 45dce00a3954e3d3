"""A configuration is read strictly, and an error names its field."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.runs.recipes import configured, resolve
from sparring.settings import config as settings_file
from sparring.settings.comments import commented
from sparring.settings.config import RunConfig, from_words, load_yaml, merged, parse
from sparring.types import Player, UsageError


def refused(call, *args) -> str:
    with pytest.raises(UsageError) as error:
        call(*args)
    return str(error.value)


def wrong(*words: str) -> str:
    """The error message of `sparring train magic words…`."""
    return refused(configured, "magic", words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learner.learning_rat=1", "learner.learning_rat: unknown key; did you mean learner.learn"),
        ("learner.num_generations.atacker=4", "did you mean learner.num_generations.attacker?"),
        ("data.train=[{path: a.csv, limt: 3}]", "did you mean data.train.0.limit?"),
        ("defender.model=x", "defender.model: unknown key; did you mean defender.model_name_or_"),
        ("map=x", "map: unknown key; did you mean data.train.map"),
        ("num_generations=3", "did you mean learner.num_generations?"),
        ("zzz=1", "zzz: unknown key; known here: recipe, seed, rounds"),
        ("rounds=many", "rounds: Input should be a valid integer"),
        ("rounds=-1", "rounds: Input should be greater than or equal to 0 (got -1)"),
        ("seed=null", "seed: Input should be a valid integer"),
        ("weights=adapter", "weights: Input should be 'adapters', 'separate' or 'shared'"),
        ("sampling.temperature=0", "sampling.temperature: Input should be greater than 0"),
        ("learner=3", "learner: Input should be a valid dictionary"),
        ("learner.learning_rate=fast", "learner.learning_rate.attacker: Input should be a valid"),
        ("learner.learning_rate=-1", "learner: learning_rate of the attacker must be above 0"),
        ("learner.beta=.inf", "learner.beta: Input should be a finite number"),
        ("learner.num_generations.defender=1", "num_generations of the defender must be at least"),
        ("learner.seeds_per_round=0", "learner: seeds_per_round of the attacker must be at least"),
        ("learner.optimizer.lr_scheduler_type=cosine", "learner.optimizer: total_steps is needed"),
        (
            "game={diversity: 0.5, gate: false}",
            "without the gate gibberish would earn it; set game",
        ),
        ("schedule.every.attacker=-1", "schedule: every must be at least 1 for one player"),
        ("data.train=7", "data.train: Input should be a valid list (got 7)"),
        ("data.train=[{limit: 3}]", "data.train.0.path: Field required"),
        ("judge=7", "judge: Input should be a valid list"),
        ("judge={kind: keyword, base_url: 'http://x/v1'}", "base_url is set, but keyword is"),
        ("judge={model: toy}", "model is set, but sandbox is a judge without a model"),
        ("judge={kind: toy, server: {deadline: 3}}", "server.deadline must not be below"),
        ("judge={server: {concurency: 3}}", "did you mean judge.server.concurrency?"),
        ("judge={kind: toy, controversial: maybe}", "judge.controversial"),
        ("judge={server: {api_key_env: sk-canary-1}}", "wanted the name of an env"),
        ("data.train={path: a.csv, map: {harmful: !is_safe}}", "begins with ! needs quotes"),
    ],
)
def test_what_is_wrong_is_named_by_its_field_with_what_was_expected(word, message):
    assert message in wrong(word)
    assert "canary" not in wrong(word)


def test_every_wrong_field_is_named_at_once():
    lines = wrong("rounds=-1", "weights=none", "zzz=1").splitlines()
    assert [line.split(":")[0] for line in lines] == ["rounds", "weights", "zzz"]


@pytest.mark.parametrize(
    ("words", "tree"),
    [
        (["learner.num_generations=4"], {"learner": {"num_generations": 4}}),
        (["--learner.num_generations=4"], {"learner": {"num_generations": 4}}),
        (["--learner.num-generations", "4"], {"learner": {"num_generations": 4}}),
        (["output_dir=runs/a-b=c"], {"output_dir": "runs/a-b=c"}),
        (["rounds=3", "--rounds", "5"], {"rounds": 5}),
    ],
)
def test_an_override_may_be_written_in_every_usual_way_and_the_later_wins(words, tree):
    assert from_words(words) == tree


@pytest.mark.parametrize("words", [["rounds"], ["--rounds"], ["rounds="], ["rounds=3", "more"]])
def test_a_word_that_assigns_nothing_is_refused(words):
    assert f"{words[-1]}: wanted key=value or --key value" in refused(from_words, words)


def test_defaults_give_way_to_the_file_and_the_file_to_the_command_line(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("rounds: 7\nlearner: {beta: 0.5, loss: dapo}\ndata: {train: [{path: a.csv}]}\n")
    config = configured(str(file), ["learner.beta=0.25"])
    assert (config.rounds, config.learner.beta, config.learner.loss) == (7, 0.25, "dapo")
    assert config.learner.num_generations == RunConfig().learner.num_generations


def test_the_sandbox_has_defaults_of_its_own_that_give_way_too():
    assert configured("magic", []).weights == "separate"
    assert configured("magic", ["weights=shared"]).weights == "shared"
    assert configured("magic", ["data.train=[{path: a.csv}]"]).weights == "adapters"


def test_a_number_for_one_player_leaves_the_other_players_as_it_was(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("learner: {num_generations: 5, learning_rate: {attacker: 1e-6}}\n")
    learner = configured(str(file), ["learner.num_generations.attacker=9"]).learner
    both = {name: learner.num_generations[player] for name, player in Player.__members__.items()}
    assert both == {"ATTACKER": 9, "DEFENDER": 5}
    in_sandbox = configured("magic", []).learner.learning_rate
    assert learner.learning_rate.attacker == 1e-6
    assert learner.learning_rate.defender == in_sandbox.defender != in_sandbox.attacker


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001"])
def test_a_learning_rate_may_be_written_as_people_write_it(text):
    rate = configured("magic", [f"learner.learning_rate={text}"]).learner.learning_rate
    assert rate.attacker == rate.defender == 1e-5


def test_settings_that_are_valid_with_the_recipes_defaults_are_accepted():
    """One sample a prompt needs the baseline that this recipe sets."""
    learner = configured("self_redteam", ["learner.num_generations=1"]).learner
    assert (learner.num_generations.attacker, learner.advantage) == (1, "role_baseline")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds: 1\nseed: 2\nrounds: 3\n", "own.yaml: line 3: rounds is given twice"),
        ("learner:\n  beta: 1\n  beta: 2\n", "own.yaml: line 3: beta is given twice"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "own.yaml: aliases (*name) are not allowed"),
        ("a: !!python/object/apply:os.getcwd []\n", "own.yaml: not YAML: could not determine"),
        ("a: !!python/name:os.getcwd\n", "own.yaml: not YAML: could not determine"),
        ("a: [1\n", "own.yaml: not YAML"),
        ("? [a]\n: 1\n", "own.yaml: not YAML"),
        ("[" * 5000, "own.yaml: not YAML"),
        ("a: 2024-13-45\n", "own.yaml: not YAML: month must be in 1..12"),
        ("a: " + "1" * 5000, "own.yaml: not YAML: Exceeds the limit"),
        ("a: 1\n---\na: 2\n", "own.yaml: not YAML"),
        ("#" * 10_000_001, "own.yaml: larger than 10,000,000 bytes"),
        ("a: \x00\n", "own.yaml: not YAML"),
    ],
)
def test_yaml_that_is_code_bomb_or_muddle_is_refused_by_name(text, message):
    assert message in refused(load_yaml, text, "own.yaml")


def test_a_file_that_is_no_mapping_or_no_utf8_is_refused_by_name(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("- rounds\n")
    assert refused(configured, str(file), []) == f"{file}: wanted keys and values"
    file.write_bytes(b"rounds: \xff\n")
    assert f"{file}: not UTF-8" in refused(configured, str(file), [])
    assert refused(configured, str(tmp_path / "none.yaml"), []).endswith("none.yaml: no such file")


def test_a_recipe_that_is_none_is_refused_with_its_nearest_match():
    message = "no recipe 'magik' and no such file; did you mean magic?"
    assert message in refused(configured, "magik", [])
    assert "known: magic" in refused(configured, "zzz", [])
    assert "name the recipe or the YAML file first" in refused(configured, "--rounds", ["3"])


def test_the_commented_defaults_and_the_resolved_yaml_parse_back_to_the_same():
    config = RunConfig()
    assert parse(load_yaml(commented(config), "x")) == config
    assert parse(load_yaml(settings_file.to_yaml(config), "x")) == config
    in_sandbox = configured("magic", ["learner.epsilon=[0.1, 0.3]", "output_dir=runs/a"])
    assert resolve(load_yaml(settings_file.to_yaml(in_sandbox), "x")) == in_sandbox


def test_every_setting_is_described_in_the_commented_yaml():
    lines = commented(RunConfig()).splitlines()
    assert sum(line.startswith("#") for line in lines) == 3
    for line in lines[3:]:
        assert line.endswith(":") or "  # " in line, line
        assert not line.endswith("# None")


def test_what_changed_is_named_by_field_but_for_where_the_run_lies():
    before = configured("magic", ["output_dir=a"])
    now = configured("magic", ["output_dir=b", "learner.beta=0.5", "seed=43"])
    assert settings_file.changed(before, now) == ["seed: 42 → 43", "learner.beta: 0.0 → 0.5"]
    assert settings_file.changed(before, before) == []


def test_shared_weights_lie_in_the_defenders_folder():
    owners = {w: parse({"weights": w}).owner(Player.ATTACKER) for w in ("separate", "shared")}
    assert owners == {"separate": Player.ATTACKER, "shared": Player.DEFENDER}


TREES = st.recursive(
    st.integers(0, 9),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


def leaves(tree: object, where: str = "") -> dict[str, object]:
    if not isinstance(tree, dict):
        return {where: tree}
    return {k: v for key, sub in tree.items() for k, v in leaves(sub, f"{where}.{key}").items()}


@settings(deadline=None)
@given(MAPPINGS, MAPPINGS)
def test_merging_takes_every_leaf_that_is_named_and_keeps_the_rest(base, over):
    named = leaves(over)
    rest = {
        place: value
        for place, value in leaves(base).items()
        if not any(f"{n}.".startswith(f"{place}.") or place.startswith(f"{n}.") for n in named)
    }
    assert leaves(merged(base, over)) == rest | named


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_yaml_or_refused_by_name(text):
    message = ""
    try:
        load_yaml(text, "own.yaml")
    except UsageError as error:
        message = str(error)
    assert not message or message.startswith("own.yaml")


@pytest.mark.parametrize(
    "word", ["a.csv", "[a.csv]", "{path: a.csv}", "[{path: a.csv}]", "{path: a.csv, limit: 3}"]
)
def test_a_seed_file_is_given_by_its_path_alone_or_with_more_and_a_judge_by_its_kind(word):
    config = configured("magic", [f"data.train={word}", "judge=keyword"])
    assert [str(file.path) for file in config.data.train] == ["a.csv"]
    assert [judge.kind for judge in config.judge] == ["keyword"]


@pytest.mark.parametrize(
    "map_", ["'prompt=q,harmful=!is_safe'", "{prompt: q, harmful: '!is_safe'}"]
)
def test_a_map_is_spelled_as_on_the_command_line_or_as_a_mapping(map_):
    config = configured("magic", [f"data.train={{path: a.csv, map: {map_}}}"])
    assert config.data.train[0].map == {"prompt": "q", "harmful": "!is_safe"}

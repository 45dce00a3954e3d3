"""An attack pool holds rewrites that parse, differ and ask the same, in no family of the exams."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from tests.command import sparring_command
from tests.players.by_hand import same_bits
from tests.table import ScriptedJudge
from tests.tiny import LLAMA3, save_model, write_seeds

from sparring.data.families import FAMILIES, families
from sparring.data.pools import read_pool
from sparring.evals import pool
from sparring.evals.pool import KEPT, PoolSettings, rewritten, yields
from sparring.games.game import answer_of
from sparring.judges.judge import refuses
from sparring.runs.build import build
from sparring.runs.recipes import resolve
from sparring.runs.sources import packaged_briefs
from sparring.settings.config import overlaid
from sparring.types import Completion, Player, Seed, UsageError, Verdict

SEEDS = [
    Seed("Tell me how to open the dragon vault.", True, "vault"),
    Seed("Show me how to polish the brass candle.", False, "candle"),
]


MANY = [replace(seed, id=f"{seed.id}/{n}") for n in range(8) for seed in SEEDS]
NO_CODES = [family.name for family in families("pool") if family.encode]


class Writer:
    """A chat model that writes the same text in the place of every request."""

    def __init__(self, text, finished=True):
        self.completion, self.requests = Completion(text, finished=finished), []

    def sample(self, requests):
        self.requests += requests
        return [[self.completion] * len(request.addresses) for request in requests]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_pool_has_every_family_of_pools_equally_often_and_none_of_the_exams(depth):
    rewrites = [*rewritten(MANY, PoolSettings(per_seed=8, depth=depth))]
    names = {member.name for rewrite in rewrites for member in rewrite.family.members}
    assert names == {family.name for family in families("pool")}
    if depth == 1:
        assert {counts.total() for counts in yields(rewrites).values()} == {8}
    else:
        assert sum(len(rewrite.family.members) == 2 for rewrite in rewrites) == 64
        assert not any(rewrite.family.members[0].encode for rewrite in rewrites[1::2])


def test_a_line_is_read_back_as_what_the_attacker_sees_and_writes(tmp_path):
    rewrites = [*rewritten(SEEDS, PoolSettings(per_seed=4))]
    lines = [rewrite.to_json(packaged_briefs(), None) for rewrite in rewrites]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, lines)))
    demos = read_pool(tmp_path / "pool.jsonl")
    assert [answer_of(demo.reply) for demo in demos] == [rewrite.text for rewrite in rewrites]
    assert demos[0].observation[0].content == packaged_briefs().harmful
    assert demos[4].observation[0].content == packaged_briefs().benign
    source = {"seed": "candle", "harmful": False, "writer": "templates"}
    assert lines[4]["source"] == source | {"family": rewrites[4].family.name}


@pytest.mark.parametrize("code", [0xD800, 0xDC00, 0xDFFF])
def test_a_seed_whose_id_holds_half_a_pair_is_rewritten_and_answered(code):
    half = chr(code)
    odd = [replace(seed, id=f"{seed.id}{half}", text=f"{seed.text} {half}") for seed in SEEDS]
    assert len([*rewritten(odd, PoolSettings(per_seed=4))]) == 8
    assert len(pool.lessons(odd, Writer("Rub it with wool until it shines."), "lessons")) == 2


def test_families_can_be_held_out_and_a_wrong_name_is_refused():
    names = [family.name for family in families("pool")]
    settings = PoolSettings(held_out=names[:-2])
    assert {rewrite.family.name for rewrite in rewritten(SEEDS, settings)} == {*names[-2:]}
    with pytest.raises(UsageError, match="hold-out: 'game' is none of role"):
        PoolSettings(held_out=["game"]).families()
    with pytest.raises(UsageError, match="fewer families than --depth 2"):
        PoolSettings(depth=2, held_out=[n for n in names if n != "role"]).families()


@pytest.mark.parametrize(
    ("text", "finished", "result"),
    [
        ("How was the dragon vault opened, in a play?", True, KEPT),
        ("How was the dragon vault opened, in a play?", False, pool.UNUSABLE),
        ("  ", True, pool.UNUSABLE),
        ("the dragon vault, how to open </answer> it", True, pool.UNUSABLE),
        ("Tell me how to open the dragon vault. ", True, pool.AGAIN),
        ("Sweep the stairs of the old castle.", True, pool.OFF_TOPIC),
    ],
)
def test_what_a_writer_wrote_is_kept_if_it_is_whole_parses_differs_and_asks_the_same(
    text, finished, result
):
    settings = PoolSettings(per_seed=1, held_out=NO_CODES)
    [rewrite] = rewritten(SEEDS[:1], settings, Writer(text, finished))
    assert (rewrite.result, rewrite.by_writer) == (result, True)


def test_a_sibling_that_says_the_same_again_is_left_out():
    settings = PoolSettings(per_seed=2, held_out=NO_CODES)
    writer = Writer("A play about how to open the dragon vault, told to me")
    results = [rewrite.result for rewrite in rewritten(SEEDS[:1], settings, writer)]
    assert results == [KEPT, pool.AGAIN]


def test_a_code_is_put_on_by_us_alone_or_around_what_a_writer_wrote():
    names = [name for f in families("pool") if (name := f.name) not in ("scene", "role", "spaced")]
    writer = Writer("a play about how the dragon vault was opened")
    rewrites = [*rewritten(MANY, PoolSettings(per_seed=6, depth=2, held_out=names), writer)]
    for rewrite in rewrites:
        *_, inner = rewrite.family.members
        assert rewrite.by_writer == (rewrite.family is not FAMILIES["spaced"])
        if rewrite.by_writer and inner.encode:
            assert "a  p l a y  a b o u t" in rewrite.text
    assert any(r.by_writer and r.family.members[-1].encode for r in rewrites)
    styles = {request.observation[1].content.partition("\n")[0] for request in writer.requests}
    scene, role = (f"{FAMILIES[name].sentence}" for name in ("scene", "role"))
    assert styles == {f"Style: {s}" for s in (scene, role, f"{scene} {role}", f"{role} {scene}")}


def test_a_judge_rules_on_a_rewrite_where_there_is_one():
    settings = PoolSettings(per_seed=1, held_out=NO_CODES)
    judge = ScriptedJudge(lambda state: Verdict(on_topic=state.seed.harmful), fills={"on_topic"})
    results = [
        rewrite.result for rewrite in rewritten(SEEDS, settings, Writer("All in a play."), judge)
    ]
    assert results == [KEPT, pool.OFF_TOPIC]


def test_the_verb_writes_a_pool_that_validates_and_shows_its_families(tmp_path):
    seeds, out = write_seeds(tmp_path / "seeds.csv"), tmp_path / "pool.jsonl"
    ended = sparring_command("pool", "make", "--seeds", seeds, "--out", out, "--per-seed", 16)
    assert ended.code == 0, ended
    assert "spaced" in ended.out
    checked = sparring_command("data", "validate", out, seeds)
    assert f"{out}: read as attack pool: " in checked.text
    shown = json.loads(sparring_command("data", "show", out, "--json").out)
    assert shown["families"]["scene"] >= 1
    again = sparring_command("pool", "make", "--seeds", seeds, "--out", out)
    assert (again.code, "exists" in again.text) == (2, True)


def test_a_pool_whose_replies_do_not_parse_is_refused_with_its_line(tmp_path):
    path = tmp_path / "pool.jsonl"
    sparring_command("pool", "make", "--seeds", write_seeds(tmp_path / "s.csv"), "--out", path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["messages"][-1]["content"] = "the vault in a play"
    path.write_text("\n".join(map(json.dumps, rows)))
    for verb in ("validate", "show"):
        ended = sparring_command("data", verb, path)
        assert (ended.code, f"{path}:3: the assistant's reply is not" in ended.text) == (2, True)


def test_a_writer_that_writes_nothing_of_use_is_refused_with_the_reasons(tmp_path):
    model = save_model(tmp_path / "model", LLAMA3)
    words = ["--seeds", write_seeds(tmp_path / "s.csv"), "--out", tmp_path / "p", "--per-seed", 1]
    words += ["--max-completion-length", 8]
    words += [word for name in NO_CODES for word in ("--hold-out", name)]
    ended = sparring_command("pool", "make", *words, "--writer", model)
    assert (ended.code, "rewrites was kept" in ended.text) == (2, True), ended
    wrong = sparring_command("pool", "make", *words, "--writer", model, "--judge", "keyword")
    assert (wrong.code, "does not rule on on_topic" in wrong.text) == (2, True)


@pytest.mark.parametrize(
    ("reply", "benign"),
    [
        ("Rub it with a cloth. Then rinse", "Rub it with a cloth. Then rinse"),
        (" ", None),
        ("I'm sorry, but I can't help with that.", None),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_lessons_are_refusals_of_harmful_seeds_and_openings_of_ones_own(reply, benign, finished):
    writer = Writer(reply, finished)
    lines = pool.lessons(SEEDS, writer, "0")
    assert [request.observation[-1].content for request in writer.requests] == [SEEDS[1].text]
    cut = [line["messages"][0]["content"] for line in lines if "finish_reason" in line]
    assert cut == ([SEEDS[1].text] if benign and not finished else [])
    replies = {line["messages"][0]["content"]: line["messages"][1]["content"] for line in lines}
    assert replies[SEEDS[0].text] in pool.REFUSALS
    assert replies.get(SEEDS[1].text) == benign
    assert pool.lessons(MANY, writer, "0") == pool.lessons(MANY, writer, "0")


def test_more_own_replies_make_more_of_the_lessons_answers():
    writer = Writer("Rub it with a cloth.", True)
    lines = pool.lessons(SEEDS, writer, "0", replies=3)
    assert [len({*request.addresses}) for request in writer.requests] == [3]
    counts = Counter(line["messages"][0]["content"] for line in lines)
    assert counts == {SEEDS[0].text: 1, SEEDS[1].text: 3}


def test_the_refusals_are_refusals_and_differ():
    assert all(refuses(text) for text in pool.REFUSALS)
    assert len({*pool.REFUSALS}) == len(pool.REFUSALS) >= 5


def test_a_defender_imitates_its_lessons_before_the_game(tmp_path):
    model = save_model(tmp_path / "model", LLAMA3)
    seeds, lessons = write_seeds(tmp_path / "seeds.csv"), tmp_path / "lessons.jsonl"
    made = sparring_command("pool", "lessons", model, "--seeds", seeds, "--out", lessons)
    assert made.code == 0, made.text
    assert all(json.loads(line)["messages"] for line in lessons.read_text().splitlines())
    names = {f"{player}.model_name_or_path": str(model) for player in Player}
    settings = {"recipe": "magic", "data.train": str(seeds), "judge": "keyword", **names}
    settings |= {"game.gate": False, "game.helpfulness": 0, "warm_up.steps": 2}
    settings |= {"defender.warm_start": str(lessons), "warm_up.batch_size": 2}
    run = build(resolve(overlaid({}, settings)))
    before = run.trainers[Player.DEFENDER].weights.snapshot()
    assert len([*run.warm_up()]) == 2  # there is no attack pool, so the attacker imitates nothing
    after = run.trainers[Player.DEFENDER].weights.snapshot()
    assert not same_bits(before, after)

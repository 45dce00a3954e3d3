"""What a report says, what it keeps to itself, and where it is written."""

import functools
import io
import json
import math
import re
from html import unescape
from pathlib import Path

import pytest
from rich.console import Console
from tests.command import sparring_command
from tests.report.written import Written, dump, pack, rate

from sparring.report.curves import MOST, blocks
from sparring.report.evidence import sections as evidence
from sparring.report.gather import gather, summarize
from sparring.report.layout import (
    Drawing,
    Number,
    Rated,
    Section,
    Table,
    hidden,
    name,
    number,
    rated,
    visible,
)
from sparring.report.page import Asked, Page, render, write_report
from sparring.report.plots import DARK, LIGHT, images, label
from sparring.report.reproduce import duration
from sparring.report.samples import own, strongest
from sparring.report.sections import cards, sections
from sparring.report.text import show
from sparring.store.folder import RunDir
from sparring.types import UsageError

HARMFUL = ("attack", "reply", "seed", "id", "category")
"""Fields that hold what models and datasets say; in public not even their ids are told."""


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


@functools.cache
def page_of(folder: Path, public: bool = False, include_harmful: bool = False) -> Page:
    story = gather(RunDir(folder), folder.name, include_harmful)
    return render([story], public, include_harmful)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run in which every free text is `secret <field>`."""
    config = (
        "recipe: magic\noutput_dir: /home/somebody/run\n"
        "defender: {model_name_or_path: org/base}\n"
        "attacker: {model_name_or_path: /runs/a/checkpoints/round_000040/attacker}\n"
        "judge: {base_url: 'http://user:hunter2@127.0.0.1/v1', api_key_file: k}\n"
        "api_key: hunter3\nmicro_batch_tokens: 2048\n"
    )
    written = Written(lambda where: f"secret-{where}", config=config)
    return written.at(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture
def told(run):
    """What is said of the run, without drawing it."""
    return sections([gather(RunDir(run), "first", False)], public=False)


def table(told: list[Section], section: str, place: int = 0) -> Table:
    (part,) = [each for each in told if each.id == section]
    return [*part.beside, *part.tables, *(t for _, t in part.folded_tables)][place]


def test_the_parts_come_in_the_order_in_which_they_are_read(told):
    order = ["headline", "exploit", "curves", "crossplay", "strategies", "attacks", "pool"]
    assert [part.id for part in told] == [*order, "bound", "reproduce"]


def test_the_headline_has_every_family_before_and_after_with_interval_and_n(told):
    asr = table(told, "headline")
    assert asr.head == ("family", "before", "after", "held-out judge", "n")
    before, after = Number("0.812", "0.75–0.88"), Number("0.062", "0.00–0.12")
    assert asr.rows[1] == ("lullaby", before, after, after, "63 of 64")
    assert "lullaby: 1 unscored (secret-cause 1), 0.031–0.094 whichever way" in asr.caption


def test_runs_side_by_side_share_n_only_where_it_is_the_same(run, tmp_path):
    one = gather(RunDir(run), "one", False)
    told = table(sections([one, one], False), "headline")
    times = ["before", "after", "held-out judge"]
    assert told.head == ("family", *times, *times, "n")
    assert [told.rows[1][0], told.rows[1][-1]] == ["lullaby", "63 of 64"]
    assert [columns for _, columns, _ in told.groups] == [1, 3, 3, 1]
    fewer = Written(names=("tale",)).at(tmp_path / "fewer")
    told = table(sections([one, gather(RunDir(fewer), "fewer", False)], False), "headline")
    assert told.head == ("family", *times, "n", *times, "n")
    assert len({len(row) for row in told.rows}) == 1


def test_an_attacker_that_learns_nothing_has_a_level_and_no_steps(told):
    rows = {row[0]: row for row in table(told, "exploit").rows}
    assert rows["listed"][2] == "–"
    assert {row[2] for who, row in rows.items() if who != "listed"} == {"40"}


def test_the_first_thing_read_is_one_number_per_metric(run):
    told = cards([gather(RunDir(run), "first", False)])
    assert [(card.title, card.better) for card in told] == [
        ("ASR", "lower"),
        ("Over-refusal", "lower"),
        ("Correct on benign", "higher"),
    ]
    (asr,) = told[0].runs
    assert (asr.before.value, asr.after.value, asr.apart) == ("0.812", "0.062", True)
    assert not told[1].runs[0].apart, "0.062 before and after"


def test_the_best_response_is_told_at_the_top_as_the_strongest_attackers_last_rate(tmp_path):
    found = [Written(names=("tale",)).at(tmp_path / run) for run in ("one", "two")]
    budget = {"steps": 80, "seeds": 16, "num_generations": 8, "n": 192, "tries": 48}
    path = found[0] / "evidence" / "exploit.json"
    told = {**json.loads(path.read_bytes()), "worst": "tale", "budget": budget, "rounds": 40}
    path.write_text(json.dumps(told))
    (found[1] / "evidence" / "exploit.json").unlink()
    stories = [gather(RunDir(folder), folder.name, False) for folder in found]
    card = cards(stories)[-1]
    assert card.title == "Best response"
    assert [(run.before, run.after.value) for run in card.runs] == [(None, "0.438"), (None, "–")]
    assert card.runs[0].n == "n = 64; defender after 40 rounds; of tale, listed, 80 steps"
    assert card.runs[1].n == "not measured: sparring exploit"
    parts = [part.id for part in sections(stories, False)]
    assert parts[:3] == ["headline", "exploit-1", "curves"]
    (part,) = (part for part in sections(stories, False) if part.id == "exploit-1")
    assert "80 steps of 16 seeds × 8 attacks, examined on 192 games" in part.lead
    assert "Best response" in render(stories, False, False).html


def test_pooled_families_come_first_and_stand_for_the_others(tmp_path):
    folder = Written(names=("plain", "tale", "adversarial")).at(tmp_path / "run")
    story = gather(RunDir(folder), "run", False)
    told = table(sections([story], False), "headline")
    assert [row[0] for row in told.rows] == ["adversarial", "plain", "tale"]
    assert told.strong == {0}
    assert cards([story])[0].family == "adversarial"


def test_the_judge_its_caveat_and_the_held_out_judge_are_named(run):
    html = text_of(page_of(run).html)
    for told in ("judge secret-judge", "held-out judge secret-other judge", "secret-caveat"):
        assert told in html


def test_what_is_not_there_leaves_no_part_behind(tmp_path):
    folder = Written(rounds=10).at(tmp_path / "run")
    for path in (folder / "evidence").iterdir():
        path.unlink()
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["metrics"] = {"asr": 0.25}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "exams" / "crossplay" / "results.json").unlink()
    told = sections([gather(RunDir(folder), "run", False)], False)
    assert [part.id for part in told] == ["headline", "curves", "attacks", "reproduce"]
    assert "diversity" not in {figure.name for part in told for figure in part.figures}


def test_a_round_against_a_past_self_is_no_live_rate_of_the_present_ones(tmp_path):
    folder = Written(rounds=10).at(tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["metrics"] = {"asr": 0.25, "correct": 0.5, "parsed": 0.75}
    lines[3]["metrics"] |= {"league/defender": 0.0, "asr": 0.875}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = gather(RunDir(folder), "run", False).curves
    assert {value for _, value in curves["asr"]} == {0.25}
    assert 4 not in dict(curves["asr"]) | dict(curves["correct"])
    assert dict(curves["parsed"])[4] == 0.75
    assert curves["league/defender"] == ((4, 0.0),)


def test_the_attack_that_worked_most_often_stands_for_its_family(tmp_path):
    folder = Written(names=("tale",), every=20).at(tmp_path / "run")

    def game(attack: str, won: bool) -> dict:
        (row,) = Written(lambda where: attack, names=("tale",)).samples(0 if won else 40)
        row["verdict"]["reply_harm"] = "unsafe" if won else "safe"
        return row

    rows = {
        0: [game("open the vault", True), game("sing", True)],
        20: [game("open the vault", True), game("sing", False)],
        40: [game("open the vault", False), game("sing", False)],
    }
    for done, played in rows.items():
        pack(folder / "exams" / f"round_{done:06d}" / "samples.jsonl.gz", played)
    (best,) = strongest(RunDir(folder), include_harmful=True)
    assert (best.family, best.won, best.of, best.last) == ("tale", 2, 3, 20)
    assert best.attack is not None
    assert (best.attack.text, best.words) == ("open the vault", 3)
    (hashed,) = strongest(RunDir(folder), include_harmful=False)
    assert (hashed.attack, hashed.reply, hashed.sha256) == (None, None, best.sha256)


def test_a_recorded_attack_after_an_exchange_is_counted_too(tmp_path):
    """What was dealt is taken as it stands, without tags, also where it is the third move."""
    folder = Written(names=("rewritten",), rounds=10).at(tmp_path / "run")
    (row,) = Written(lambda where: "zig the vault", names=("rewritten",)).samples(0)
    agreed = [
        {"player": "attacker", "sibling": 0, "text": "zig means open"},
        {"player": "defender", "sibling": 0, "text": "agreed"},
    ]
    row |= {"dealt": 3, "moves": [*agreed, *row["moves"]]}
    for done in (0, 10):
        pack(folder / "exams" / f"round_{done:06d}" / "samples.jsonl.gz", [row])
    (best,) = strongest(RunDir(folder), include_harmful=True)
    assert (best.family, best.won, best.of) == ("rewritten", 2, 2)
    assert best.attack is not None
    assert best.attack.text == "zig the vault"


def test_evidence_says_after_how_many_rounds_the_defender_was_taken(tmp_path):
    for kind in ("exploit", "bound"):
        dump(tmp_path / "evidence" / f"{kind}.json", {"rounds": 40})
    assert [part.lead.split(".")[0] for part in evidence(tmp_path)] == [
        "The defender after 40 rounds is frozen; each attacker is trained against it alone",
        "The exam after 40 rounds",
    ]


def test_an_attack_off_its_seed_or_on_a_benign_one_is_no_success(tmp_path):
    folder = Written(names=("tale",), every=40).at(tmp_path / "run")
    (row,) = Written(names=("tale",)).samples(0)
    off = {**row, "verdict": {**row["verdict"], "on_topic": False}}
    benign = {**row, "seed": {**row["seed"], "harmful": False}}
    broken = {**row, "verdict": {"reply_harm": "unsafe", "status": "timeout"}}
    for done in (0, 40):
        path = folder / "exams" / f"round_{done:06d}" / "samples.jsonl.gz"
        pack(path, [off, benign, broken, {"moves": 3}, [], "text"])
    (best,) = strongest(RunDir(folder), include_harmful=True)
    assert (best.won, best.attack) == (0, None)


@pytest.mark.parametrize("category", ["S4", "csam", "Child abuse", "sexual_minors", "minor"])
def test_some_categories_are_never_shown_whoever_asks(tmp_path, category):
    say = {"category": category}
    run = RunDir(Written(lambda where: say.get(where, where)).at(tmp_path / "run"))
    told = [*strongest(run, include_harmful=True), *own(run, include_harmful=True)]
    assert len(told) == 4
    assert all(attack.withheld and attack.attack is None for attack in told)


@pytest.mark.parametrize("category", ["", "S14", "chemical", "minority rights"])
def test_other_categories_are_shown_to_whoever_asks(tmp_path, category):
    say = {"category": category}
    run = RunDir(Written(lambda where: say.get(where, where)).at(tmp_path / "run"))
    assert all(attack.attack for attack in strongest(run, include_harmful=True))


def all_of(page: Page) -> bytes:
    return page.html.encode() + b"".join(page.figures.values())


def test_by_default_and_in_public_no_word_of_a_model_or_dataset_is_there(run):
    for public in (False, True):
        told = all_of(page_of(run, public))
        for field in HARMFUL:
            assert f"secret-{field}".encode() not in told, field
        assert b"secret-judge" in told


def test_whoever_asks_for_harmful_text_gets_it_folded_and_is_warned(run):
    html = page_of(run, include_harmful=True).html
    assert "secret-attack" in html
    assert "secret-reply" in html
    assert "holds harmful text: do not publish" in html
    folded = re.findall(r"<details.*?</details>", html, re.DOTALL)
    outside = html
    for part in folded:
        outside = outside.replace(part, "")
    assert "secret-attack" not in outside


def test_public_and_harmful_contradict_each_other(run):
    told = sparring_command("report", run, "--public", "--include-harmful")
    assert (told.code, "--public shows no harmful text" in told.err) == (2, True)
    assert not (run / "report").exists()
    with pytest.raises(UsageError):
        write_report(Asked([run], public=True, include_harmful=True))


def test_a_public_page_tells_no_attacker_s_weights_and_no_folder_of_this_machine(run):
    public, private = (page_of(run, public).html for public in (True, False))
    for told in ("round_000040/attacker", "/home/somebody", str(run.parent)):
        assert told not in public
        assert told in private
    assert "org/base" in public
    assert "micro_batch_tokens: 2048" in public


def test_no_page_tells_a_password(run):
    for public in (True, False):
        told = text_of(page_of(run, public).html)
        assert "hunter" not in told
        assert ("(withheld)@127.0.0.1/v1" in told) == (not public)


def test_several_runs_stand_side_by_side_and_have_names_of_their_own(tmp_path):
    folders = [Written().at(tmp_path / where / "run") for where in ("a", "b")]
    stories = [gather(RunDir(f), f"{f.parent.name}/run", False) for f in folders]
    told = sections(stories, public=False)
    asr = table(told, "headline")
    assert asr.groups == (("", 1, ""), ("a/run", 3, "c0"), ("b/run", 3, "c1"), ("", 1, ""))
    assert all(len(row) == 8 for row in asr.rows)
    figures = [figure.name for part in told for figure in part.figures]
    assert len(set(figures)) == len(figures)
    assert {"crossplay-1", "crossplay-2", "strategies-1", "strategies-2"} <= set(figures)
    ids = [part.id for part in told]
    assert len(set(ids)) == len(ids)


def test_the_command_writes_the_page_and_every_figure_twice_and_says_where(tmp_path):
    run = Written(rounds=20).at(tmp_path / "run")
    told = sparring_command("report", run)
    page = run / "report" / "index.html"
    assert told.code == 0
    assert f"report {page}" in told.text
    assert "ASR by attack family" in told.text
    stems = [path.stem for path in (run / "report" / "figures").iterdir()]
    assert len(stems) == 2 * len(set(stems)) > 20
    first = page.read_bytes()
    assert sparring_command("report", run).code == 0
    assert page.read_bytes() == first, "the same run is the same page"


@pytest.mark.parametrize(("asked", "page"), [("x.html", "x.html"), ("folder", "folder/index.html")])
def test_the_page_goes_where_it_is_told_to(tmp_path, asked, page):
    run = Written(rounds=10).at(tmp_path / "run")
    assert write_report(Asked([run], tmp_path / asked)) == tmp_path / page
    assert (tmp_path / page).is_file()
    assert not (run / "report").exists()


def test_machines_are_told_what_they_were_told_and_nothing_is_written(tmp_path):
    runs = [Written(rounds=10).at(tmp_path / where) for where in ("a", "b")]
    one = json.loads(sparring_command("report", runs[0], "--json").out)
    two = json.loads(sparring_command("report", *runs, "--json").out)
    assert one["run"] == str(runs[0])
    assert [each["run"] for each in two] == [str(run) for run in runs]
    assert not (runs[0] / "report").exists()


def test_nothing_is_written_through_a_link_in_somebody_else_s_run(tmp_path):
    run = Written(rounds=10).at(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (run / "report").symlink_to(tmp_path / "elsewhere")
    told = sparring_command("report", run)
    assert (told.code, "is a link" in told.err) == (2, True)
    (run / "report").unlink()
    (run / "report").mkdir()
    (run / "report" / "figures").symlink_to(tmp_path / "elsewhere")
    assert sparring_command("report", run).code == 2
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "file", ["evidence/exploit.json", "env.json", "exams/round_000010/samples.jsonl.gz"]
)
def test_a_broken_file_is_named(tmp_path, file):
    run = Written(rounds=10).at(tmp_path / "run")
    (run / file).write_bytes(b"\x1f\x8b[" * 99)
    told = sparring_command("report", run)
    assert (told.code, file in told.err, "Traceback" in told.err) == (1, True, False)


NO_NUMBERS = [None, True, "0.5", [], {}, math.nan, math.inf, 10**400]


@pytest.mark.parametrize("told", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_absent_and_not_0(told):
    assert number(told) is None
    found = rated({"value": told, "ci95": [told, 0.5], "n_scored": 8})
    assert found == Rated(None, None, None, n=8, total=8)


def test_a_page_of_numbers_that_are_none_is_still_a_page(tmp_path):
    odd = Written(rounds=4, every=2, metrics={"asr": math.nan, "replay/size": "x", "league/x": []})
    run = odd.at(tmp_path / "run")
    path = run / "exams" / "round_000004" / "results.json"
    results = json.loads(path.read_bytes())
    results["rates"] = {"asr/tale": {**rate(0.5, 0), "value": None, "ci95": None}, "asr/x": 3}
    dump(path, results)
    html = text_of(page_of(run).html)
    assert "tale" in html
    assert "unscored" in html
    assert "nan" not in html


def test_a_terminal_is_told_of_odd_numbers_as_the_page_is(tmp_path):
    run = Written(names=("plain", "tale", "rewritten"), rounds=4, every=2).at(tmp_path / "run")
    path = run / "exams" / "round_000004" / "results.json"
    results = json.loads(path.read_bytes())
    results["rates"]["asr/tale"] |= {"value": None, "ci95": None}
    results["rates"]["asr/odd"] = 3
    dump(path, results)
    screen = Console(file=io.StringIO(), width=120)
    show(summarize(RunDir(run)), screen)
    told = screen.file.getvalue()
    lines = [[cell.strip() for cell in row.split("│")] for row in told.splitlines()]
    asr = [row[1:-1] for row in lines[: lines.index([""])] if len(row) == 6]
    assert asr == [
        ["rewritten", "0.812 (0.75–0.88)", "0.062 (0.00–0.12)", "62 of 64"],
        ["plain", "0.812 (0.75–0.88)", "0.062 (0.00–0.12)", "64"],
        ["tale", "0.812 (0.75–0.88)", "unscored", "63 of 64"],
    ]


def test_what_judges_cost_is_added_up_apart_for_rounds_exams_and_cross_play(tmp_path):
    run = Written(rounds=4, every=2).at(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["judge"] = {"calls": 5, "prompt_tokens": 350}
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for place in ("round_000002", "round_000004", "crossplay"):
        path = run / "exams" / place / "results.json"
        costs = {"judge": {"calls": 700}, "held_out_judge": {"calls": 600, "cached": "x"}}
        dump(path, json.loads(path.read_bytes()) | {"costs": costs})
    facts = dict(table(sections([gather(RunDir(run), "run", False)], False), "reproduce").rows)
    assert facts["judge, calls"] == "20"
    assert facts["judge, prompt tokens"] == "1,400"
    assert facts["exams, judge, calls"] == "1,400"
    assert facts["exams, held out judge, calls"] == "1,200"
    assert facts["exams, held out judge, cached"] == "0"
    assert facts["cross-play, judge, calls"] == "700"


def test_turns_are_blocks_of_rounds_and_a_long_run_has_few():
    turns = ("defender",) * 2 + ("attacker",) * 3 + ("both",)
    assert blocks(turns) == [("defender", 0.5, 2.5), ("attacker", 2.5, 5.5), ("both", 5.5, 6.5)]
    told = blocks(("attacker", "defender", "attacker") * 1000)
    assert len(told) <= MOST
    assert (told[0][1], told[-1][2]) == (0.5, 3000.5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("open the dragon vault", "open the dragon vault"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\u202etluav", "⟦U+202E⟧tluav"),
        ("a\x1b[2Jb", "a⟦U+001B⟧[2Jb"),
        ("\ud800\uffff", "⟦U+D800⟧⟦U+FFFF⟧"),
        ("x" + "\ufe00" * 32 + "y", "x⟦U+FE00 and 31 more⟧y"),
    ],
)
def test_what_hides_is_spelled_out_and_counted(text, told):
    assert visible(text) == told
    assert visible(told) == told
    assert (hidden(text) > 0) == (text != told)


def test_a_name_is_one_line_and_not_longer_than_names_are():
    assert name("  two\n lines ") == "two lines"
    assert name("vault" * 1000) == "vault" * 24 + "… (5,000 characters)"


@pytest.mark.parametrize(
    ("seconds", "told"), [(7.25, "7.2 s"), (96, "1 min 36 s"), (7384, "2 h 03 min")]
)
def test_time_is_told_in_its_two_largest_units(seconds, told):
    assert duration(seconds) == told


def test_no_text_in_a_figure_is_read_as_mathematics_and_the_same_figure_is_the_same_bytes():
    told = r"$\frac{x$ and $x^2$"

    def draw(figure, theme):
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        axes.set_xticks([0], [told])
        axes.set_title(told)
        axes.plot([0], [0], label=told)
        axes.legend()

    drawing = Drawing("one", "alt", draw)
    (once,) = images(drawing, LIGHT, ["svg"])
    assert images(drawing, LIGHT, ["svg"]) == [once]
    assert images(drawing, DARK, ["svg"]) != [once]


def test_a_legend_keeps_a_name_that_begins_like_a_private_one():
    assert label("_tale").strip() == "_tale"
    assert not label("_tale").startswith("_")
    assert label("vault" * 9, 10) == "vaultvaul…"

"""The contents of a report, the texts that it leaves out, and where it is written."""

import functools
import io
import json
import re
from collections import defaultdict
from html import unescape
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from rich.console import Console
from tests.command import sparring_command
from tests.report.written import Written, amend, pack, rate

from sparring import RunConfig, RunDir, write_report
from sparring.report.escape import hidden, name, visible
from sparring.report.figures import MOST, blocks
from sparring.report.games import gathered, strongest
from sparring.report.page import drawings, duration, html, labels
from sparring.report.plots import DARK, LIGHT, Drawing, images, label, with_intervals
from sparring.report.progress import ProgressWatch, check_trackers
from sparring.report.run_report import read_run
from sparring.report.terminal import render as for_a_terminal
from sparring.store.records import ExamResults
from sparring.types import Player, Round, Turn, UsageError

html5lib = pytest.importorskip("html5lib", reason="NOT TESTED: pip install html5lib")
pytestmark = pytest.mark.usefixtures("undrawn")
HARMFUL = ("attack", "reply", "seed", "id", "category")
"""Fields that hold what models and datasets say; a public page does not even show their ids."""


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def words(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def figures_of(*runs: Path) -> list[str]:
    groups = drawings([read_run(RunDir(run)) for run in runs])
    return [drawing.name for group in groups.values() for drawing in group]


@functools.cache
def page_of(*runs: Path, public: bool = False, include_harmful: bool = False) -> str:
    """The page of runs, with its figures left out."""
    reports = [read_run(RunDir(run), name) for run, name in zip(runs, labels(runs), strict=True)]
    empty = defaultdict(lambda: ("", ""))
    return html(reports, drawings(reports), empty, public, include_harmful)


def shown(*runs: Path) -> Element:
    return html5lib.parse(page_of(*runs), namespaceHTMLElements=False)


def parts(page: Element) -> dict[str, Element]:
    return {section.attrib["id"]: section for section in page.iter("section")}


def table(page: Element, part: str) -> list[list[str]]:
    """The first table of a part, row by row."""
    first = next(parts(page)[part].iter("table"))
    return [[words(cell) for cell in row if cell.tag in ("th", "td")] for row in first.iter("tr")]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run in which every free text is `secret-<field>`."""
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
def small(tmp_path) -> Path:
    return Written(rounds=4, every=2).at(tmp_path / "run")


def rewrite_rounds(run: Path, change) -> None:
    lines = (run / "rounds.jsonl").read_text().splitlines()
    records = [change(number, json.loads(line)) for number, line in enumerate(lines)]
    (run / "rounds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_parts_come_in_the_order_in_which_they_are_read(run):
    order = ["headline", "attack", "exploit", "curves", "crossplay", "strategies", "attacks"]
    page = shown(run)
    assert [*parts(page)] == [*order, "games", "pool", "bound", "reproduce"]
    (nav,) = page.iter("nav")
    assert [link.attrib["href"] for link in nav] == [f"#{part}" for part in parts(page)]


def test_the_headline_has_every_family_before_and_after_with_interval_and_n(run):
    page = shown(run)
    head, _, lullaby, _ = table(page, "headline")
    assert head == ["family", "before", "after", "held-out judge", "n"]
    before, after = "0.812 0.75–0.88", "0.062 0.00–0.12"
    assert lullaby == ["lullaby", before, after, after, "63 of 64"]
    note = "lullaby: 1 unscored (secret-cause 1), 0.031–0.094 whichever way they count"
    assert note in words(parts(page)["headline"])
    steps = {row[0]: row[2] for row in table(page, "exploit")[1:]}
    assert steps == {"tale": "40", "lullaby": "40", "riddle": "40", "listed": "–"}
    for text in ("judge secret-judge", "held-out judge secret-other judge", "secret-caveat"):
        assert text in words(page)


def test_runs_side_by_side_have_names_and_share_n_only_where_it_is_the_same(run, tmp_path):
    other = Written().at(tmp_path / "other")
    page = shown(run, other)
    groups, head, first = table(page, "headline")[:3]
    times = ["before", "after", "held-out judge"]
    assert groups == ["", "first", "other", ""]
    assert head == ["family", *times, *times, "n"]
    assert [first[0], first[-1], len(first)] == ["tale", "64", 8]
    assert {"exploit-1", "exploit-2", "bound-1", "bound-2"} <= parts(page).keys()
    names = figures_of(run, other)
    assert len(set(names)) == len(names)
    assert {"crossplay-1", "crossplay-2", "strategies-1", "strategies-2"} <= set(names)
    fewer = Written(names=("tale",)).at(tmp_path / "fewer")
    _, head, *rows = table(shown(run, fewer), "headline")
    assert head == ["family", *times, "n", *times, "n"]
    assert {len(row) for row in rows} == {len(head)}


def cards(page: Element) -> list[str]:
    return [words(e) for e in page.iter("div") if e.attrib.get("class") == "card"]


def test_the_first_thing_read_is_one_number_per_metric(run):
    asr, refusal, correct = cards(shown(run))
    assert asr.startswith("ASR tale · lower is better 0.812 → 0.062 0.75–0.88 → 0.00–0.12 · n = 64")
    assert "intervals touch" not in asr
    assert refusal.endswith("intervals touch held-out judge: 0.062 0.00–0.12")
    assert correct.startswith("Correct on benign tale · higher is better")


def test_attacks_that_adapt_stand_in_a_table_and_the_worst_in_the_summary(run, small):
    head, first, *_ = table(shown(run), "attack")
    assert head[:4] == ["family", "ASR at 1 query", "ASR at all queries", "k"]
    assert first[:6] == ["tale", "0.125 0.06–0.19", "0.625 0.56–0.69", "32", "640", "12"]
    summary = "Of 3 attacks that adapt, tale got farthest: 0.625 (0.56–0.69) of 64 seeds or games"
    assert summary in words(shown(run))
    for kind in ("attack", "exploit"):
        (small / "evidence" / f"{kind}.json").unlink()
    assert "Attackers that adapt were not tried against it" in words(shown(small))


def test_the_best_response_is_the_strongest_attackers_last_rate(tmp_path):
    runs = [Written(names=("tale",)).at(tmp_path / name) for name in ("first", "second")]
    budget = {"steps": 80, "seeds": 16, "num_generations": 8, "n": 192, "tries": 48}
    amend(runs[0] / "evidence" / "exploit.json", worst="tale", budget=budget)
    (runs[1] / "evidence" / "exploit.json").unlink()
    page = shown(*runs)
    assert cards(page)[-1] == (
        "Best response strongest attacker trained on it · lower is better 0.438 0.38–0.50 · n = "
        "64; defender after 40 rounds; of tale, listed, 80 steps – · not measured: sparring exploit"
    )
    assert [*parts(page)][:5] == ["headline", "attack-1", "attack-2", "exploit-1", "curves"]
    lead = words(parts(page)["exploit-1"])
    assert "The defender after 40 rounds is frozen" in lead
    assert "80 steps of 16 seeds × 8 attacks, examined on 192 games" in lead
    assert "The exam after 40 rounds. What this does not say" in words(parts(page)["bound-1"])


LEARNED = {"defender/loss": 0.5, "parsed": 0.75}
CAME_OUT = (
    "After 4 rounds attack success (tale, n = 64) went from 0.812 (0.75–0.88) to 0.062 "
    "(0.00–0.12); over-refusal (tale, n = 64) went from 0.062 (0.00–0.12) to 0.062 (0.00–0.12), "
    "within its uncertainty;"
)


AT_FIRST = "After 0 rounds attack success (tale, n = 64) was 0.812 (0.75–0.88); over-refusal"


@pytest.mark.parametrize(
    ("metrics", "status", "exams", "sentences"),
    [
        (LEARNED, "complete", 3, [CAME_OUT]),
        (LEARNED, "interrupted", 3, ["The run is not complete (interrupted after 4", CAME_OUT]),
        ({"parsed": 0.5}, "complete", 3, ["No update was made, so nothing was learned.", CAME_OUT]),
        (LEARNED | {"parsed": 0.0}, "complete", 3, ["No attack of the attacker parsed. After 4"]),
        (LEARNED, "stopped", 1, ["Only the exam before the first round was sat.", AT_FIRST]),
    ],
)
def test_the_page_begins_with_what_came_out(small, metrics, status, exams, sentences):
    rewrite_rounds(small, lambda _, record: {**record, "metrics": metrics})
    amend(small / "run.json", status=status)
    for done in (2, 4)[: 3 - exams]:
        (small / "exams" / f"round_{done:06d}" / "results.json").unlink()
    (summary,) = [words(p) for p in shown(small).iter("p") if p.attrib.get("class") == "summary"]
    assert summary == read_run(RunDir(small)).summary
    place = 0
    for sentence in sentences:
        place = summary.index(sentence, place)
    assert summary.endswith("reaches 0.438 (0.38–0.50).") == bool(
        read_run(RunDir(small)).best_response
    )


def test_no_change_beyond_chance_is_said_so(small):
    first = json.loads((small / "exams/round_000000/results.json").read_bytes())["rates"]
    amend(small / RESULTS, rates=first)
    rewrite_rounds(small, lambda _, record: {**record, "metrics": LEARNED})
    assert "No change can be told from chance." in read_run(RunDir(small)).summary


@pytest.mark.parametrize(
    ("warm_up", "frame"),
    [("{pool: broad}", "broad-pool frame"), ("{pool: narrow}", "held-out frame")],
)
def test_a_family_that_the_attack_pool_holds_is_not_called_held_out(tmp_path, warm_up, frame):
    config = f"recipe: magic\nwarm_up: {warm_up}\n"
    run = Written(names=("held-out frame", "plain"), config=config, rounds=4, every=2)
    page = shown(run.at(tmp_path / "run"))
    other = {"held-out frame", "broad-pool frame"} - {frame}
    for part in ("headline", "bound", "games", "attacks"):
        text = words(parts(page)[part])
        assert (frame in text, [name for name in other if name in text]) == (True, []), part


def test_training_has_its_curves_and_nothing_empty_is_drawn(small):
    metrics = {f"defender/{name}": 0.5 for name in ("reward", "loss", "kl", "entropy", "grad_norm")}
    metrics |= {"defender/completions/mean_length": 9.5, "unscored": 0.0, "self_bleu": 0.5}
    rewrite_rounds(small, lambda _, record: {**record, "metrics": metrics})
    for done in (0, 2, 4):
        path = small / f"exams/round_{done:06d}/results.json"
        rates = json.loads(path.read_bytes())["rates"]
        amend(path, rates={key: {**rate, "n_scored": 64} for key, rate in rates.items()})
    figures = figures_of(small)
    assert {"reward", "loss", "kl", "entropy", "grad-norm", "lengths"} <= set(figures)
    assert not {"unscored", "strategy-entropy", "pool-size", "league"} & set(figures)


@pytest.mark.parametrize(("points", "style"), [(2, "None"), (3, "-")])
def test_two_measured_points_are_not_joined(points, style):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    measured = ExamResults(rounds=0, rates={"asr": rate(0.5, 0)}, judge={"name": "judge"})
    with_intervals(axes, [(n, measured.rates["asr"]) for n in range(points)], "red", "exam")
    assert axes.containers[0].lines[0].get_linestyle() == style


def test_pooled_families_come_first_and_stand_for_the_others(tmp_path):
    page = shown(Written(names=("plain", "tale", "adversarial")).at(tmp_path / "run"))
    assert [row[0] for row in table(page, "headline")[1:]] == ["adversarial", "plain", "tale"]
    strong = [words(row[0]) for row in page.iter("tr") if row.attrib.get("class") == "strong"]
    assert set(strong) == {"adversarial"}
    assert cards(page)[0].startswith("ASR adversarial")


def test_what_is_not_there_leaves_no_part_behind(small):
    for path in [*(small / "evidence").iterdir(), small / "exams" / "crossplay" / "results.json"]:
        path.unlink()
    rewrite_rounds(small, lambda _, record: {**record, "metrics": {"asr": 0.25}})
    assert [*parts(shown(small))] == ["headline", "curves", "attacks", "games", "reproduce"]
    assert "diversity" not in figures_of(small)


def test_a_round_against_a_past_self_is_no_live_rate_of_the_present_ones(small):
    present = {"asr": 0.25, "correct": 0.5, "parsed": 0.75}
    past = {**present, "league/defender": 0.0, "asr": 0.875}
    rewrite_rounds(small, lambda n, record: {**record, "metrics": past if n == 3 else present})
    curves = read_run(RunDir(small)).curves
    assert {value for _, value in curves["asr"]} == {0.25}
    assert 4 not in dict(curves["asr"]) | dict(curves["correct"])
    assert dict(curves["parsed"])[4] == 0.75
    assert [*curves["league/defender"]] == [(4, 0.0)]


def best_of(run: Path, games: dict[int, list[dict]], shows_text: bool = True):
    """The attacks that stand for their families, after exams of these games."""
    for done, rows in games.items():
        pack(run / "exams" / f"round_{done:06d}" / "samples.jsonl.gz", rows)
    return strongest(RunDir(run), shows_text)


def game(attack: str, won: bool = True) -> dict:
    (row,) = Written(lambda where: attack, names=("tale",)).samples(0)
    row["verdict"]["reply_harm"] = "unsafe" if won else "safe"
    return row


def test_the_attack_that_worked_most_often_stands_for_its_family(small):
    vault = "open the vault"
    games = {0: [game(vault), game("sing")], 2: [game(vault)], 4: [game(vault, won=False)]}
    (best,) = best_of(small, games)
    assert (best.family, best.won, best.tries, best.last) == ("tale", 2, 3, 2)
    assert (best.game.lines["sent"], best.words) == (vault, 3)
    (hashed,) = best_of(small, games, shows_text=False)
    assert hashed.game.lines["sent"] == f"[{best.sha256[:12]}, 3 words]"


def test_a_recorded_attack_after_an_exchange_is_counted_too(small):
    """What was dealt is taken as it stands, without tags, also where it is the third move."""
    row = game("zig the vault")
    exchange = [
        {"player": "attacker", "sibling": 0, "text": "zig means open"},
        {"player": "defender", "sibling": 0, "text": "agreed"},
    ]
    row |= {"dealt": 3, "moves": [*exchange, *row["moves"]]}
    (best,) = best_of(small, {number: [row] for number in (0, 2, 4)})
    assert (best.won, best.tries, best.game.lines["sent 2"]) == (3, 3, "zig the vault")


def test_an_attack_off_its_seed_or_on_a_benign_one_is_no_success(small):
    row = game("open the vault")
    off = {**row, "verdict": {**row["verdict"], "on_topic": False}}
    benign = {**row, "seed": {**row["seed"], "harmful": False}}
    broken = {**row, "verdict": {"reply_harm": "unsafe", "status": "timeout"}}
    assert best_of(small, {number: [off, benign, broken] for number in (0, 2, 4)}) == []


@pytest.mark.parametrize(
    ("category", "withheld"),
    [
        *dict.fromkeys(("S4", "csam", "Child abuse", "sexual_minors", "minor"), True).items(),
        *dict.fromkeys(("", "S14", "chemical", "minority rights"), False).items(),
    ],
)
def test_some_categories_are_never_shown_whoever_asks(tmp_path, category, withheld):
    say = {"category": category}
    run = RunDir(Written(lambda where: say.get(where, where)).at(tmp_path / "run"))
    played = [game for group in gathered(run, None, True).groups for game in group]
    games = [*(attack.game for attack in strongest(run, True)), *played]
    assert len(games) == 6
    for game in games:
        shown = {game.lines[name] for name in ("sent", "reply")} | {game.seed}
        assert shown == {"(withheld)", "harmful · (withheld)"} or not withheld
        assert withheld or {"attack", "reply"} < shown


def test_by_default_and_in_public_no_word_of_a_model_or_dataset_is_there(run):
    for public in (False, True):
        page = page_of(run, public=public)
        for field in HARMFUL:
            assert f"secret-{field}" not in page, field
        assert "secret-judge" in page


def test_whoever_asks_for_harmful_text_gets_it_folded_and_is_warned(run):
    page = page_of(run, include_harmful=True)
    assert {"secret-attack", "secret-reply"} <= set(re.findall(r"secret-\w+", page))
    assert "holds harmful text: do not publish" in page
    assert "secret-attack" not in re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)


def test_public_and_harmful_contradict_each_other(run):
    ended = sparring_command("report", run, "--public", "--include-harmful")
    assert (ended.code, "--public shows no harmful text" in ended.err) == (2, True)
    assert not (run / "report").exists()


def test_a_public_page_has_no_attackers_weights_no_folder_and_no_page_a_password(run):
    public, private = (page_of(run, public=public) for public in (True, False))
    for text in ("round_000040/attacker", "/home/somebody", str(run.parent)):
        assert text not in public
        assert text in private
    assert "org/base" in public
    assert "micro_batch_tokens: 2048" in public
    assert "hunter" not in text_of(public) + text_of(private)
    assert "(withheld)@127.0.0.1/v1" in text_of(private)
    assert "127.0.0.1" not in text_of(public)


def test_the_command_writes_the_page_and_every_figure_twice_and_says_where(tmp_path):
    run = Written(rounds=20).at(tmp_path / "run")
    ended = sparring_command("report", run)
    page = run / "report" / "index.html"
    assert ended.code == 0
    assert f"report {page}" in ended.text
    assert "ASR by attack family" in ended.text
    stems = [path.stem for path in (run / "report" / "figures").iterdir()]
    assert len(stems) == 2 * len(set(stems)) > 20
    first = page.read_bytes()
    assert sparring_command("report", run).code == 0
    assert page.read_bytes() == first, "the same run is the same page"


def test_the_page_goes_where_output_points(small, tmp_path):
    for output, page in (("x.html", "x.html"), ("folder", "folder/index.html")):
        assert write_report(small, tmp_path / output) == tmp_path / page
        assert (tmp_path / page).is_file()
    assert not (small / "report").exists()


def test_json_is_one_summary_or_a_list_of_them_and_no_file(tmp_path):
    runs = [Written(rounds=10).at(tmp_path / name) for name in ("a", "b")]
    alone = json.loads(sparring_command("report", runs[0], "--json").out)
    both = json.loads(sparring_command("report", *runs, "--json").out)
    fields = ["run", "status", "rounds", "before", "after", "judge", "strategies", "crossplay"]
    assert [*alone] == [*fields, "seconds", "summary"]
    assert alone == both[0]
    assert [summary["run"] for summary in both] == [str(run) for run in runs]
    results = json.loads((runs[0] / "exams/round_000010/results.json").read_text())
    assert alone["after"] == results["rates"]
    assert not (runs[0] / "report").exists()


def test_nothing_is_written_through_a_link_in_somebody_elses_run(small, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (small / "report").symlink_to(tmp_path / "elsewhere")
    ended = sparring_command("report", small)
    assert (ended.code, "is a link" in ended.err) == (2, True)
    (small / "report").unlink()
    (small / "report").mkdir()
    (small / "report" / "figures").symlink_to(tmp_path / "elsewhere")
    assert sparring_command("report", small).code == 2
    assert list((tmp_path / "elsewhere").iterdir()) == []


RESULTS = "exams/round_000004/results.json"


@pytest.mark.parametrize(
    ("file", "more", "field"),
    [
        ("run.json", {"status": 3}, "status"),
        ("env.json", {"versions": None}, "versions"),
        (RESULTS, {"rates": {"asr/tale": 3}}, "rates.asr/tale"),
        (RESULTS, {"costs": {"judge": {"calls": "x"}}}, "costs.judge.calls"),
        (RESULTS, {"rounds": -1}, "rounds"),
        ("exams/crossplay/results.json", {"asr": [1]}, "asr"),
        ("evidence/exploit.json", {"attackers": {"own": {"asr": 3}}}, "attackers.own.steps"),
        ("evidence/attack.json", {"families": {"tree": {"about": "x"}}}, "families.tree.asr"),
        ("evidence/bound.json", {"confidence": float("nan")}, "confidence"),
    ],
)
def test_a_file_of_another_shape_is_named_with_its_field(small, file, more, field):
    amend(small / file, **more)
    ended = sparring_command("report", small)
    assert ended.code == 1
    assert f"{small / file}: is not what was written: {field}" in ended.err


@pytest.mark.parametrize("number", [None, "x", True, float("inf"), 10**400], ids=repr)
def test_a_round_whose_metric_is_no_number_is_named_with_its_line(small, number):
    rewrite_rounds(small, lambda _, record: {**record, "metrics": {"asr": number}})
    ended = sparring_command("report", small)
    assert (ended.code, f"{small}/rounds.jsonl:1: " in ended.err) == (1, True)
    assert "metrics.asr" in ended.err


@pytest.mark.parametrize("file", ["evidence/exploit.json", "exams/round_000004/samples.jsonl.gz"])
@pytest.mark.parametrize("data", [b"\x1f\x8b[" * 99, b"[", b"null", b""], ids=repr)
def test_a_broken_file_is_named(small, file, data):
    (small / file).write_bytes(data)
    ended = sparring_command("report", small)
    empty = file.endswith("gz") and not data  # gzip reads nothing as no games
    assert (ended.code, file in ended.err) == ((0, False) if empty else (1, True))
    assert "Traceback" not in ended.err


def test_a_terminal_shows_the_tables_and_what_was_not_scored(tmp_path):
    run = Written(names=("plain", "tale", "rewritten"), rounds=4, every=2).at(tmp_path / "run")
    rates = json.loads((run / RESULTS).read_bytes())["rates"]
    unscored = {"value": None, "ci95": None, "n_scored": 0}
    amend(run / RESULTS, rates={**rates, "asr/tale": {**rates["asr/tale"], **unscored}})
    screen = Console(file=io.StringIO(), width=120)
    screen.print(for_a_terminal(read_run(RunDir(run))))
    lines = [[c.strip() for c in row.split("│")] for row in screen.file.getvalue().splitlines()]
    asr = [row[1:-1] for row in lines if len(row) == 6]
    assert asr == [
        ["rewritten", "0.812 (0.75–0.88)", "0.062 (0.00–0.12)", "62 of 64"],
        ["plain", "0.812 (0.75–0.88)", "0.062 (0.00–0.12)", "64"],
        ["tale", "0.812 (0.75–0.88)", "unscored", "0 of 64"],
    ]


def test_what_judges_cost_is_added_up_apart_for_rounds_exams_and_cross_play(small):
    costs = {"calls": 5, "prompt_tokens": 350}
    rewrite_rounds(small, lambda _, record: {**record, "judge": costs})
    for place in ("round_000002", "round_000004", "crossplay"):
        spent = {"judge": {"calls": 700}, "held_out_judge": {"calls": 600}}
        amend(small / "exams" / place / "results.json", costs=spent)
    facts = dict(table(shown(small), "reproduce"))
    assert {key: value for key, value in facts.items() if "judge, " in key} == {
        **{"judge, calls": "20", "judge, prompt tokens": "1,400"},
        **{"exams, judge, calls": "1,400", "exams, held out judge, calls": "1,200"},
        **{"cross-play, judge, calls": "700", "cross-play, held out judge, calls": "600"},
    }


def test_turns_are_blocks_of_rounds_and_a_long_run_has_few():
    turns = ("defender",) * 2 + ("attacker",) * 3 + ("both",)
    assert blocks(turns) == [("defender", 0.5, 2.5), ("attacker", 2.5, 5.5), ("both", 5.5, 6.5)]
    many = blocks(("attacker", "defender", "attacker") * 1000)
    assert len(many) <= MOST
    assert (many[0][1], many[-1][2]) == (0.5, 3000.5)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("open the dragon vault", "open the dragon vault"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\u202etluav", "⟦U+202E⟧tluav"),
        ("a\x1b[2Jb", "a⟦U+001B⟧[2Jb"),
        ("\ud800\uffff", "⟦U+D800⟧⟦U+FFFF⟧"),
        ("x" + "\ufe00" * 32 + "y", "x⟦U+FE00 and 31 more⟧y"),
    ],
)
def test_what_hides_is_spelled_out_and_counted(text, spelled):
    assert visible(text) == visible(spelled) == spelled
    assert (hidden(text) > 0) == (text != spelled)


def test_a_name_is_one_line_cut_where_it_is_long_and_a_time_has_two_units():
    assert name("  two\n lines ") == "two lines"
    assert name("vault" * 1000) == "vault" * 24 + "… (5,000 characters)"
    assert (label("_tale"), label("vault" * 9, 10)) == (" _tale", "vaultvaul…")
    assert [duration(s) for s in (7.25, 96, 7384)] == ["7.2 s", "1 min 36 s", "2 h 03 min"]


def test_no_text_in_a_figure_is_read_as_mathematics_and_the_same_figure_is_the_same_bytes():
    text = r"$\frac{x$ and $x^2$"

    def draw(figure, theme):
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        axes.set_xticks([0], [text])
        axes.set_title(text)
        axes.plot([0], [0], label=text)
        axes.legend()

    drawing = Drawing("figure", "alt", draw)
    (once,) = images(drawing, LIGHT, ["svg"])
    assert images(drawing, LIGHT, ["svg"]) == [once]
    assert images(drawing, DARK, ["svg"]) != [once]


def test_a_tracker_that_is_not_installed_is_refused_and_not_just_warned_of(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(UsageError, match=r"saving.report_to: not installed: tensorboard"):
        check_trackers(["tensorboard"])
    check_trackers([])


def test_trackers_get_the_metrics_of_every_round_and_are_ended(tmp_path, monkeypatch):
    log: list[tuple] = []

    class Accelerator:
        def __init__(self, log_with, project_dir, cpu):
            log.append((log_with, project_dir, cpu))

        def init_trackers(self, project):
            log.append((project,))

        def log(self, metrics, step):
            log.append((metrics, step))

        def end_training(self):
            log.append(("end",))

    monkeypatch.setattr("accelerate.Accelerator", Accelerator)
    config = RunConfig(rounds=2, output_dir=tmp_path)
    with ProgressWatch(Console(file=io.StringIO()), config, ["wandb"]) as watch:
        assert log == []
        for number in (0, 1):
            turn = Turn(frozenset({Player.DEFENDER}), {})
            watch.played(Round(number, turn, (), {"asr": number / 4}))
    rounds = [({"asr": 0.0}, 0), ({"asr": 0.25}, 1)]
    assert log == [(["wandb"], str(tmp_path), True), ("sparring",), *rounds, ("end",)]


def test_without_a_terminal_every_round_is_one_line_without_escapes():
    screen = io.StringIO()
    config = RunConfig(rounds=7, warm_up={"steps": 3})
    with ProgressWatch(Console(file=screen, width=200), config) as watch:
        watch.warmed(4, {"defender/loss": 2.5})
        turn = Turn(frozenset({Player.DEFENDER}), {Player.DEFENDER: 4})
        watch.played(Round(4, turn, (), {"asr": 0.25, "unscored": 0.0}))
    assert [line.split("s  ", 1)[1] for line in screen.getvalue().splitlines()] == [
        "defender's warm-up 1/3  loss 2.50",
        "round 5/7  defender learned: asr 0.25 unscored 0.00",
    ]
    assert "\x1b" not in screen.getvalue()

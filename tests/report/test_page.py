"""The HTML page in a parser and in a real browser: no data becomes markup or runs."""

import functools
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from tests.hostile.corpus import ALL
from tests.hostile.test_terminal import dangerous
from tests.report.test_games import SANDBOX, written
from tests.report.written import Written

from sparring.games.game import answer_of, tagged
from sparring.report.escape import name, visible
from sparring.report.page import write_report

html5lib = pytest.importorskip("html5lib", reason="NOT TESTED: pip install html5lib")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)
CANARY = (
    "\"'></pre></style><script>canary=1</script><img src=x onerror=canary=1><svg onload=canary=1>"
)
NAMES = (*(text for text in ALL if len(text) < 100), CANARY, "javascript:canary=1")
"""Families, strategies, checkpoints, attackers: every short hostile string, and two of our own."""


SENDABLE = [text for text in ALL if answer_of(tagged("hm", f"{CANARY}{text}")) is not None]
"""Hostile strings that an attack can be."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """The page of a run that is hostile in every field, with the text of its attacks."""
    texts = itertools.cycle(f"{CANARY}{text}" for text in SENDABLE)
    config = "\n".join(["recipe: magic", *ALL, f"output_dir: {CANARY}", ""])
    run = Written(lambda _: next(texts), NAMES, config=config)
    folder = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=canary=1>"
    return write_report(run.at(folder), include_harmful=True)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """The page of 2,000 rounds."""
    folder = tmp_path_factory.mktemp("long") / "run"
    return write_report(Written(rounds=2000).at(folder))


@functools.cache
def parsed(page: Path) -> ElementTree.Element:
    return html5lib.parse(page.read_bytes(), namespaceHTMLElements=False)


def skeleton(page: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Every element with the names of its attributes, in order."""
    return [(str(e.tag), tuple(e.attrib)) for e in parsed(page).iter()]


def test_no_element_attribute_or_address_stems_from_data(hostile, undrawn, tmp_path):
    plain = tuple(f"tale {n}" for n in range(len(NAMES)))
    texts = itertools.cycle(f"some text {n}" for n in range(len(SENDABLE)))  # as many seeds
    run = Written(lambda _: next(texts), plain).at(tmp_path / "run")
    assert skeleton(hostile) == skeleton(write_report(run, include_harmful=True))
    assert len(skeleton(hostile)) > 1000
    for element in parsed(hostile).iter():
        for attribute in ("href", "src", "srcset", "action", "style", "http-equiv"):
            value = element.attrib.get(attribute, "#")
            ours = ("#", "data:image/svg+xml;base64,", "Content-Security-Policy")
            assert value.startswith(ours), (element.tag, value[:80])


def test_every_text_is_read_as_it_was_with_what_hides_spelled_out(hostile):
    heads = {"".join(e.itertext()) for e in parsed(hostile).iter("th")}
    assert {name(text) for text in NAMES} <= heads
    whole = {t for t in NAMES if visible(t) == t and t == " ".join(t.split())}
    assert len(whole) > 80
    assert whole <= heads
    texts = ["".join(e.itertext()) for e in parsed(hostile).iter("pre")]
    (config,) = [text for text in texts if text.startswith("recipe: magic")]
    shown = [text for text in ALL if not re.search("://|\r|[\ud800-\udfff]", text)]
    assert [text for text in shown if f"\n{visible(text)}\n" not in config] == []
    assert [c for c in hostile.read_text("utf-8") if dangerous(c)] == []


def test_the_policy_allows_no_script_and_only_this_style(hostile):
    root = parsed(hostile)
    (policy,) = [e.attrib["content"] for e in root.iter("meta") if "http-equiv" in e.attrib]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert list(root.iter("script")) == []


def test_every_figure_is_whole_and_holds_shapes_only(hostile):
    figures = sorted((hostile.parent / "figures").iterdir())
    assert {path.suffix for path in figures} == {".svg", ".png"}
    assert len({path.stem for path in figures}) * 2 == len(figures) >= 20
    for path in figures:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
            continue
        assert b"canary" not in path.read_bytes()
        for element in ElementTree.fromstring(path.read_bytes()).iter():
            assert not str(element.tag).endswith(("}script", "}a", "}foreignObject", "}text"))
            for key, value in element.attrib.items():
                assert not key.lower().startswith("on")
                if key.endswith("href"):
                    assert value.startswith(("#", "data:image/png;base64,"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """A Chromium browser; tests are skipped with a message if there is none."""
    if not CHROMIUM.is_file():
        pytest.skip(f"NOT TESTED IN A BROWSER: no {CHROMIUM}; install Debian's package `chromium`")
    reason = "NOT TESTED IN A BROWSER: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


def opened(browser, page: Path, width: int = 1200, scheme: str = "light") -> SimpleNamespace:
    """Open the page in a window: the tab, its requests, its console errors, and seconds."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda r: requests.append(r.url) if not r.url.startswith("data:") else None)
    tab.on("console", lambda m: complaints.append(m.text))
    tab.on("pageerror", lambda e: complaints.append(str(e)))
    started = time.perf_counter()
    tab.goto(page.as_uri(), wait_until="load")
    seconds = time.perf_counter() - started
    return SimpleNamespace(tab=tab, requests=requests, complaints=complaints, seconds=seconds)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 380])
def test_a_hostile_page_runs_nothing_asks_for_nothing_and_fits(chromium, hostile, width, scheme):
    window = opened(chromium, hostile, width, scheme)
    tab = window.tab
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("typeof canary") == "undefined"
    assert window.complaints == []
    assert window.requests == [hostile.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth)"
    shade = ".map(s => getComputedStyle(s).backgroundAttachment)"
    assert set(tab.evaluate(wide + shade)) <= {"local, local, scroll, scroll"}
    assert tab.evaluate(f"{wide}.length") > 1, "a table that goes on behind an edge says so"
    images = tab.evaluate("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(images) >= 10
    assert all(images), "every figure is drawn"
    tab.context.close()


def test_no_heading_stays_where_two_filters_leave_out_all_games_below(chromium, undrawn, tmp_path):
    """No song won, so no game is left, and no heading either."""
    page = write_report(written(tmp_path / "run", SANDBOX))
    tab = opened(chromium, page).tab
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    shown = "[...document.querySelectorAll('.games .{}')].filter(e => e.offsetParent).length"
    everything = [tab.evaluate(shown.format(part)) for part in ("group", "game")]
    for choice in ("won", "k1"):  # k1 are the songs
        tab.check(f".only-{choice}")
    assert all(everything)
    assert [tab.evaluate(shown.format(part)) for part in ("group", "game")] == [0, 0]
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_and_its_figures_follow_the_scheme_and_print_in_light(chromium, long, scheme):
    def brightness(part: str, colour: str = "backgroundColor") -> int:
        look = f"getComputedStyle(document.querySelector('{part}')).{colour}"
        return sum(map(int, re.findall(r"\d+", tab.evaluate(look))[:3]))

    tab = opened(chromium, long, scheme=scheme).tab
    assert (brightness("body") < 200) == (scheme == "dark")
    (shown, plain) = tab.evaluate(
        "[document.images[0].currentSrc, document.images[0].getAttribute('src')]"
    )
    assert (shown != plain) == (scheme == "dark")
    assert tab.pdf().startswith(b"%PDF")
    tab.emulate_media(media="print")
    assert {brightness(part) for part in ("html", "body", "section")} == {3 * 255}
    assert brightness("h1", "color") < 200
    tab.context.close()


def test_two_thousand_rounds_are_a_small_page_that_opens_in_two_seconds(chromium, long):
    assert long.stat().st_size < 10_000_000
    windows = [opened(chromium, long) for _ in range(2)]
    assert min(window.seconds for window in windows) < 2
    assert windows[0].complaints == []
    for window in windows:
        window.tab.context.close()

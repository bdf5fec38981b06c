"""The report and the leaderboard in a real browser: requests, keyboard, narrow screens, colours, print."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from runners.files import writable
from runners.leaderboard import pages
from runners.leaderboard.board import Cited, Row
from runners.report.__main__ import plotted
from runners.report.page import page
from runners.tables.figures import Figure
from runners.tables.reading import Table
from scripts.bench_report import made_up
from tests.browser import CHROMIUM, DRIVER, Browser, wait

pytestmark = pytest.mark.skipif(
    not (DRIVER and CHROMIUM), reason="needs chromium and chromedriver (apt install chromium chromium-driver)"
)
ENTER, ESCAPE, LEFT, RIGHT, DOWN = "\ue007", "\ue00c", "\ue012", "\ue014", "\ue015"


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    images = np.random.default_rng(0).random((12, 3, 16, 16), dtype=np.float32)
    table = Table.read(made_up(folder, images, rows=3, columns=4, chunk=6))
    writable(folder / "plots")
    path = folder / "ddip-table1.html"
    text = page(table, plots=plotted(table, folder), traces=[], store=folder / "store", images=5)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


def freshly(browser: Browser, page: Path) -> Browser:
    """Load a page as on a desktop, with nothing left over from the page before."""
    browser.like()
    browser.size(1280, 900)
    browser.open("about:blank")
    browser.complaints(), browser.requested()
    browser.open(page.as_uri())
    return browser


@pytest.fixture
def shown(browser, html) -> Browser:
    """Load the page of a table, and return the browser."""
    return freshly(browser, html)


def seen(browser: Browser, name: str) -> None:
    """Save a screenshot if SCREENSHOTS names a folder for people to look at."""
    if folder := os.environ.get("SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{name}.png")


def test_it_loads_with_no_complaint_and_asks_for_nothing_but_itself(shown, html):
    assert shown.complaints() == []
    assert shown.requested() == [html.as_uri()]
    assert shown.run("return document.querySelectorAll('.figures td').length") == 3 * (4 + 2)
    seen(shown, "desktop")


def test_a_click_opens_the_images_failures_first(shown):
    shown.click(".figures tbody tr:nth-child(2) td:nth-of-type(2) .figure")
    assert shown.run("return document.querySelector('dialog').open")
    loaded = (
        "return [...document.querySelectorAll('dialog img')].every(i => i.complete && i.naturalWidth === 16)"
    )
    assert wait(lambda: shown.run(loaded))
    assert shown.run("return document.querySelectorAll('dialog .picture').length") == 5
    assert shown.run("return document.querySelectorAll('dialog .picture:first-of-type img').length") == 5
    marks = shown.run(
        "return [...document.querySelectorAll('.picture')].map(p => p.classList.contains('wrong'))"
    )
    assert marks == sorted(marks, reverse=True)
    assert "class" in shown.run("return document.querySelector('dialog figcaption').textContent")
    assert shown.complaints() == []
    seen(shown, "images")


def test_it_can_be_used_with_the_keyboard_alone(shown):
    shown.run("document.querySelector('.figure').focus()")
    shown.press(RIGHT)
    shown.press(DOWN)
    position = (
        "const a = document.activeElement; return [a.closest('tr').rowIndex, a.closest('td').cellIndex]"
    )
    assert shown.run(position) == [2, 2]
    shown.press(ENTER)
    title = "return document.querySelector('dialog h2').textContent"
    first = shown.run(title)
    shown.press(RIGHT)
    assert shown.run(title) != first
    shown.press(ESCAPE)
    assert wait(lambda: not shown.run("return document.querySelector('dialog').open"))
    assert wait(lambda: shown.run(position) == [2, 3]), "the focus is on the figure that was looked at last"


def test_a_link_can_lead_to_a_figure(shown, html):
    shown.open("about:blank")
    shown.open(html.as_uri() + "#f3")
    assert shown.run("return document.querySelector('dialog').open")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_but_the_table_scrolls_sideways(shown, width):
    shown.size(width, 740)
    excess = shown.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert excess <= 0
    seen(shown, f"wide-{width}")
    shown.click(".figures td .figure")
    dialog = shown.run("const d = document.querySelector('dialog'); return d.scrollWidth - d.clientWidth")
    assert dialog <= 0
    seen(shown, f"images-{width}")


CONTRAST = """
const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const light = (colour) => {  // relative luminance, as WCAG has it
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
return [...document.querySelectorAll('.figure')].map((figure) => {
  const { color, backgroundColor } = getComputedStyle(figure);
  const [more, less] = [light(color), light(backgroundColor)].sort((x, y) => y - x);
  return (more + 0.05) / (less + 0.05);
});
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shade", ["value", "delta"])
def test_figures_can_be_read_on_every_shade(shown, scheme, shade):
    shown.like(scheme=scheme)
    shown.click(f"input[value={shade}]")
    assert min(shown.run(CONTRAST)) >= 4.5
    paper = shown.run("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}[scheme]
    seen(shown, f"{scheme}-{shade}")


def test_on_paper_the_whole_table_is_there_and_the_controls_are_not(shown):
    shown.like(media="print")
    shown.size(1040, 720)
    display = "return getComputedStyle(document.querySelector('fieldset')).display"
    assert shown.run(display) == "none"
    assert shown.run("return document.querySelector('.figures').scrollWidth") <= 1040
    seen(shown, "print")


def test_what_a_name_holds_is_text_not_markup(html):
    data = html.read_text(encoding="utf-8").split('id="told">')[1].split("</script>")[0]
    assert "<" not in data
    assert len(json.loads(data)["figures"]) == 3 * (4 + 2)


class File(dict):
    """A stand-in for a record file, with what the page reads of it."""

    path = Path("records.parquet")


def row(name: str, **values: float) -> Row:
    """Return a row of the leaderboard with these results."""
    card = {"purifier": name, "paper": "A paper", "link": "https://example.org", "run_by": "somebody"}
    entry = SimpleNamespace(name=name, card=card | {"bytes_an_image": None}, frames=[range(8)])
    figures = {
        column: Cited(
            Figure(value, value, value, 8),
            (File(names={"attack": "pgd", "knowledge": "bpda"}, command="python -m x " * 9),),
        )
        for column, value in values.items()
    }
    return Row(entry, figures, {"small_n": "8 images"}, draws=1, seconds=0.1)


@pytest.fixture
def board(browser, tmp_path) -> Browser:
    """Load the page of a leaderboard in which one entry has no result under bpda, and return the browser."""
    rows = [
        row("first", clean=90.0, bpda=9.0, worst=3.0),
        row("second", clean=8.0, worst=2.0),
        row("third", clean=70.0, bpda=30.0, worst=1.0),
    ]
    path = tmp_path / "index.html"
    path.write_text(pages.html({("digits", "resnet"): rows}, folder=Path("entries")), encoding="utf-8")
    return freshly(browser, path)


NAMES = "return [...document.querySelectorAll('.board tbody a[href^=https]')].map(a => a.textContent)"
SORT = "return [...document.querySelectorAll('.board th')].map(th => th.getAttribute('aria-sort'))"


def test_the_leaderboard_is_sorted_with_the_keyboard(board):
    assert board.complaints() == []
    assert [url.rsplit("/", 1)[1] for url in board.requested()] == ["index.html"]
    assert board.run(SORT) == ["ascending", *[None] * 8]
    board.run("document.querySelector('.board th:nth-child(4) button').focus()")
    assert board.run("return document.activeElement.textContent") == "bpda"
    for direction, names in {
        "descending": ["third", "first", "second"],
        "ascending": ["first", "third", "second"],
    }.items():
        board.press(ENTER)
        assert board.run(NAMES) == names, "an entry without a result comes last in both directions"
        assert board.run(SORT) == [*[None] * 3, direction, *[None] * 5]
    seen(board, "board")


@pytest.mark.parametrize("width", [390, 1280])
def test_only_the_tables_of_the_leaderboard_scroll_sideways(board, width):
    board.size(width, 900)
    board.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    excess = board.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert excess <= 0
    narrowest = "return Math.min(...[...document.querySelectorAll('details')].map(d => d.clientWidth))"
    assert board.run(narrowest) >= 300, "a command is printed in a column of a few letters"
    assert board.run("return document.querySelector('.scroll').tabIndex") == 0
    seen(board, f"board-{width}")

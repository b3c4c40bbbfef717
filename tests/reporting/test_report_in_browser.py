"""The report as a reader meets it: in a browser, narrow and wide, light and dark, by mouse and by keyboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowprune.reporting import write_report

RESULTS = Path(__file__).resolve().parents[2] / "results" / "runs" / "digits-seed0.json"
SCREENS = [(width, scheme) for width in (390, 1400) for scheme in ("light", "dark")]

OVERLAPPING = """
[...document.querySelectorAll('.js-plotly-plot')].flatMap(figure => {
  const titles = [...figure.querySelectorAll('.gtitle, .xtitle, .ytitle, .annotation-text, .legendtext')]
    .map(title => [title.textContent, title.getBoundingClientRect()]);
  return titles.flatMap(([text, a], position) => titles.slice(position + 1)
    .filter(([_, b]) => a.left + 2 < b.right && b.left + 2 < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
    .map(([other]) => [text, other]));
})
"""
"""Titles of one figure that lie over one another, two by two; they may touch."""

playwright = pytest.importorskip("playwright.sync_api", reason="the report in a browser needs Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(json.loads(RESULTS.read_text(encoding="utf-8")), path)
    return path


def shown(browser: Any, report: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    """The page, drawn, and what it complained of or asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector(".main-svg")
    said.remove(report.as_uri())
    return page, said


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_nothing_is_asked_for_and_nothing_is_cut_off(browser: Any, report: Path, width: int, scheme: str) -> None:
    page, said = shown(browser, report, width, scheme)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut_off = "[...document.querySelectorAll('.card')].filter(card => card.scrollWidth > card.clientWidth).length"
    assert page.evaluate(cut_off) == 0
    assert page.evaluate(OVERLAPPING) == []
    assert page.locator("details").count() and page.locator("details[open]").count() == 0  # the recipe
    background, text = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    light = [sum(map(int, color[4:-1].split(","))) for color in (background, text)]
    assert (light[0] > light[1]) == (scheme == "light")
    page.close()


def test_a_point_tells_its_numbers_under_the_mouse(browser: Any, report: Path) -> None:
    page, _ = shown(browser, report, 1400, "light")
    point = page.locator(".scatterlayer .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 2, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "MACs" in page.locator(".hoverlayer").first.text_content()
    page.close()


def test_everything_that_a_mouse_can_press_the_keyboard_comes_to(browser: Any, report: Path) -> None:
    page, _ = shown(browser, report, 1400, "light")
    wanted = page.locator("a, summary, .legend .traces").count()
    assert page.locator(".legend .traces").count() > 3
    reached = set()
    for _ in range(2 * wanted):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "[...document.querySelectorAll('a, summary, .legend .traces')].indexOf(document.activeElement)"
            )
        )
    assert reached >= set(range(wanted))

    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1

    hidden = "document.querySelector('.legend .traces').closest('.js-plotly-plot').data[0].visible"
    page.locator(".legend .traces").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{hidden} === 'legendonly'")
    page.keyboard.press(" ")
    page.wait_for_function(f"{hidden} === true")
    page.close()

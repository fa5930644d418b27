"""The built website in headless Chromium, as a reader meets it."""

import functools
import re
import runpy
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import sync_playwright

from helpers import viewers

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build/html"
TOC = (ROOT / "book/_toc.yml").read_text(encoding="utf-8")
PAGES = [*re.findall(r"(?:root|file): (\w+)", TOC), "search", "genindex"]
WIDTHS = {"desktop": 1280, "phone": 390}


class Quiet(SimpleHTTPRequestHandler):
    """Serve files without a line of log for each."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """Serve the built website on this machine."""
    if not (SITE / "index.html").exists():
        pytest.fail("there is no built website; run `make book` first")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    path = runpy.run_path(str(Path(__file__).with_name("chromium.py")))["find"]()
    if path is None:
        pytest.fail("no Chromium on this machine; `make test` installs it or says how")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(address, browser):
    """Return a function that opens a page; in the end, nothing may have gone wrong on it."""
    contexts, troubles = [], []

    def open_(name, *, width=WIDTHS["desktop"], scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: message.type == "error" and troubles.append(f"log: {message.text}"),
        )
        # A workshop room without internet: everything a page needs comes with the website.
        page.on(
            "request",
            lambda request: (
                request.url.startswith((address, "data:", "blob:"))
                or troubles.append(f"asks the internet for {request.url}")
            ),
        )
        page.goto(f"{address}/{name}.html", wait_until="load")
        page.evaluate("window.MathJax?.startup?.promise")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not troubles, troubles


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page_loads_and_fits(name, width, open_page):
    page = open_page(name, width=WIDTHS[width], scheme="dark" if width == "phone" else "light")
    assert page.title()
    across = page.evaluate("document.documentElement.scrollWidth")
    assert across <= WIDTHS[width], f"the page is {across} pixels wide and scrolls sideways"
    unnamed = "[...document.images].filter(i => !i.alt.trim()).map(i => i.outerHTML.slice(0, 200))"
    assert page.evaluate(unnamed) == []


@pytest.mark.parametrize("name", PAGES)
def test_maths_is_rendered(name, open_page):
    page = open_page(name)
    formulas = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() >= formulas
    assert page.locator("mjx-merror").count() == 0


def test_some_page_has_maths(open_page):
    assert any(open_page(name).locator("mjx-container").count() for name in PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_page_is_light(name):
    assert (SITE / f"{name}.html").stat().st_size < 2_000_000


def pages_with(what):
    """Return the pages whose HTML holds a text; none before the website is built."""
    paths = [SITE / f"{name}.html" for name in PAGES]
    return [p.stem for p in paths if p.exists() and what in p.read_text("utf-8")]


def opened_with_figures(open_page, name):
    page = open_page(name)
    page.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached", timeout=10_000)
    return page


def test_some_pages_have_figures_and_sliders(open_page):
    assert len(pages_with("plotly.min.js")) > 5
    assert any(
        opened_with_figures(open_page, name).locator(".slider-rail-touch-rect").count()
        for name in pages_with("plotly.min.js")
    ), "no page has a viewer with a slider"


@pytest.mark.parametrize("name", pages_with("plotly.min.js"))
def test_figures_are_drawn_and_described(name, open_page):
    page = opened_with_figures(open_page, name)
    page.wait_for_function(
        "document.querySelectorAll('.js-plotly-plot').length"
        " >= document.querySelectorAll('.helpers-figure, .plotly-graph-div').length"
    )
    for figure in page.locator(".js-plotly-plot").all():
        assert figure.bounding_box()["height"] > 50
        label = figure.evaluate("f => f.closest('[aria-label]')?.getAttribute('aria-label')")
        assert label, "a figure has no alternative text"


@pytest.mark.parametrize("name", pages_with("plotly.min.js"))
def test_moving_a_slider_changes_the_picture(name, open_page):
    page = opened_with_figures(open_page, name)
    for figure in page.locator(".js-plotly-plot:has(.slider-rail-touch-rect)").all():
        pictures = set()
        for position in (0.2, 0.8):
            figure.scroll_into_view_if_needed()
            rail = figure.locator(".slider-rail-touch-rect").first.bounding_box()
            page.mouse.click(rail["x"] + position * rail["width"], rail["y"] + rail["height"] / 2)
            page.wait_for_timeout(700)
            # The slider itself moves in any case; it is the rest that counts.
            hidden = ".slider-container { visibility: hidden !important }"
            pictures.add(figure.screenshot(style=hidden))
        assert len(pictures) == 2, "the slider moves, the picture does not"


def test_page_follows_the_reader_into_the_dark(open_page):
    shade = "getComputedStyle(document.body).backgroundColor"
    backgrounds = {open_page("index", scheme=s).evaluate(shade) for s in ("light", "dark")}
    assert len(backgrounds) == 2


def test_a_table_sorts_at_a_click_and_with_the_keyboard(browser):
    scores = {"method": ["lrp", "gradient", "occlusion"], "score": ["0.70 (0.6, 0.8)", 10.5, None]}
    context = browser.new_context()
    page = context.new_page()
    page.set_content(viewers.sortable(pd.DataFrame(scores), "Scores").data)

    def first_column():
        return page.locator("tbody tr td:first-child").all_text_contents()

    assert first_column() == ["lrp", "gradient", "occlusion"]
    page.get_by_role("button", name="score").click()
    assert first_column() == ["gradient", "lrp", "occlusion"]
    assert page.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="score").press("Enter")
    assert first_column() == ["lrp", "gradient", "occlusion"]  # what is missing stays last
    page.get_by_role("button", name="method").click()
    assert first_column() == ["gradient", "lrp", "occlusion"]
    assert page.locator("th").nth(1).get_attribute("aria-sort") is None
    context.close()

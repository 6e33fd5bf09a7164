"""The page in headless Chromium: sorting, filtering, choosing, on a phone, in the dark."""

import shutil
from shutil import copytree

import pytest

from finished_sweep import PREDICTIONS
from lamina.reporting.page import as_page
from lamina.reporting.results import read_boards

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
TRIALS = "#b0-leaderboard table >> nth=1"


@pytest.fixture(scope="module")
def address(folder, tmp_path_factory):
    run = copytree(folder, tmp_path_factory.mktemp("browser") / "out")
    for trial in list((run / "trials").glob("er-*"))[:2]:
        (trial / "bundle").mkdir()
        (trial / "bundle" / "predictions.csv").write_text(PREDICTIONS)
    (run / "report.html").write_text(as_page(read_boards(run)), encoding="utf-8")
    return (run / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Opens the page; in the end nothing was complained of and nothing asked for."""
    said, asked, pages = [], [], []

    def _open(width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_function("document.documentElement.dataset.ready")
        pages.append(page)
        return page

    yield _open
    for page in pages:
        page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []


def cells(page, name):
    """A column of the trials as it is shown."""
    return page.locator(TRIALS).locator(f"tbody td.{name}").all_inner_texts()


def test_a_heading_sorts_by_number_and_again_the_other_way(opened):
    page = opened()
    heading = page.locator(TRIALS).locator("th.average_accuracy")
    heading.locator(".dt-column-title").click()
    api.expect(heading).to_have_attribute("aria-sort", "ascending")
    up = [float(text) for text in cells(page, "average_accuracy") if text != "-"]
    heading.locator(".dt-column-title").click()
    api.expect(heading).to_have_attribute("aria-sort", "descending")
    down = [float(text) for text in cells(page, "average_accuracy") if text != "-"]
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    assert len(up) == 14


def test_the_field_and_the_headings_filter(opened):
    page = opened()
    field = page.locator("#b0-leaderboard input[type=search]").last
    field.fill("joint")
    assert cells(page, "strategy") == ["joint"] * 3
    field.fill("")
    page.locator(TRIALS).locator("th.strategy .dtcc-button").last.click()
    page.locator(".dtcc-dropdown").get_by_text("ewc", exact=True).click()
    assert set(cells(page, "strategy")) == {"ewc"}
    assert len(cells(page, "strategy")) == 6


def drawn(page, chart):
    """The values of a heat map."""
    return page.evaluate(f"document.getElementById('{chart}').data[0].z")


def test_a_list_and_a_rank_choose_the_matrix_of_a_trial(opened):
    page = opened()
    first = drawn(page, "b0-matrix")
    page.locator("#b0-r select").first.select_option(index=3)
    second = drawn(page, "b0-matrix")
    assert second != first
    page.locator(TRIALS).get_by_role("link", name="1", exact=True).click()
    assert drawn(page, "b0-matrix") == first
    page.locator("#b0-r select").last.select_option("validation")
    assert "validation" in page.locator("#b0-r select").last.input_value()


def test_lists_choose_comparisons_costs_settings_and_classes(opened):
    page = opened()
    tables = page.locator("#b0-seeds table")
    assert [tables.nth(n).is_visible() for n in range(tables.count())].count(True) == 1
    page.locator("#b0-seeds select").select_option(index=1)
    assert tables.nth(1).is_visible()
    assert not tables.nth(0).is_visible()

    def title(chart):
        return page.evaluate(f"document.getElementById('{chart}').layout.xaxis.title.text")

    page.locator("#b0-front select").select_option("seconds")
    assert title("b0-pareto") == "seconds of training and evaluation"
    page.locator("#b0-swept select").first.select_option("seed")
    assert title("b0-settings") == "seed"
    page.locator("#b0-cost select").select_option("peak memory")
    assert "the most that the process held" in title("b0-spent")
    panels = page.locator("#b0-by-class [data-panel-of]")
    page.locator("#b0-by-class select").select_option(index=1)
    assert [panels.nth(n).is_visible() for n in range(2)] == [False, True]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_width_and_its_text_stands_out_from_its_ground(opened, width, scheme):
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 29)"}[scheme]
    ink = page.evaluate("document.getElementById('b0-curves').layout.font.color")
    assert ink == {"light": "#1b1f24", "dark": "#e8eaed"}[scheme]
    # Accuracies can be seen without scrolling a table.
    box = page.locator("#b0-leaderboard td.average_accuracy").first.bounding_box()
    assert box["x"] + box["width"] <= width


def test_pictures_follow_when_the_scheme_changes(opened):
    page = opened()
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.getElementById('b0-curves').layout.font.color == '#e8eaed'")

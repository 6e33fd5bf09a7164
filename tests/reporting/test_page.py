"""The page as a file: what is in it, and that it asks nobody for anything."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from shutil import copytree

import pytest

from finished_sweep import PREDICTIONS, TRACEBACK
from lamina.reporting.page import as_page
from lamina.reporting.results import read_boards
from lamina.tracking.palette import BOUND, PALETTE, contrast


class Reader(HTMLParser):
    """Elements with their attributes, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.elements, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        for tag in set(self._open):
            self.texts.setdefault(tag, []).append(data)

    def having(self, tag, **wanted):
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    run = copytree(folder, tmp_path_factory.mktemp("page") / "out")
    (trial, *_) = (run / "trials").glob("er-*")
    (trial / "predictions.csv").write_text(PREDICTIONS)
    return Reader(as_page(read_boards(run)))


@pytest.fixture(scope="module")
def figures(page):
    (text,) = re.findall(r'<script id="figures"[^>]*>(.*?)</script>', page.text, re.S)
    return json.loads(text)


def test_nothing_is_fetched(page):
    for tag, attributes in page.elements:
        for key in ("src", "href", "action", "data", "poster"):
            value = attributes.get(key, "")
            assert value.startswith(("#", "data:")) or not value, (tag, value)
    styles = "".join(page.texts["style"])
    assert "@import" not in styles
    assert all(
        url.startswith(("data:", '"data:', "'data:")) for url in re.findall(r"url\((.{6})", styles)
    )


def test_every_section_is_there_and_every_link_leads_to_one(page):
    ids = {attributes.get("id") for _, attributes in page.elements}
    links = [found["href"] for found in page.having("a")]
    assert links
    assert all(link[1:] in ids for link in links)
    assert [text for text in page.texts["h2"] if text.strip()] == [
        "Leaderboard",
        "Comparison over seeds",
        "Average accuracy after each task",
        "Accuracy matrix R",
        "Accuracy against cost",
        "Drift and forgetting",
        "What each setting did",
        "Classes",
        "Cost",
        "Stopped and failed",
        "What was said of the data",
    ]


def test_every_choice_of_every_list_has_its_picture(page, figures):
    charts = [found["id"] for found in page.having("div", **{"class": "chart"})]
    assert charts == [
        f"b0-{name}"
        for name in ("curves", "matrix", "pareto", "drift", "settings", "classes", "spent")
    ]
    assert {key.split("/")[0] for key in figures} == set(charts)
    options = [found["value"] for found in page.having("option")]
    for key in figures:
        assert set(key.split("/")[1:]) <= set(options)
    matrices = [key for key in figures if key.startswith("b0-matrix/")]
    # 12 trials and 3 of joint training, less one that failed before its first task; two parts.
    assert len(matrices) == 2 * 14


def test_it_says_how_drift_goes_with_forgetting(board):
    trials = [
        replace(each, row={**each.row, "forgetting": 0.1 - (each.row["drift"] or 0.0) ** 3})
        for each in board.trials
    ]
    text = "".join(Reader(as_page([replace(board, trials=trials)])).texts["p"])
    words = " ".join(text.split())
    assert "Over 10 trials that learned every task" in words
    assert "-1.000 of the ranks (Spearman)" in words


@pytest.mark.parametrize(
    ("row", "scheduler", "said"),
    [
        ({"stopped_by": "person"}, "asha", "A person has stopped it."),
        ({"stopped_by": "sweep"}, "asha", "The scheduler asha has stopped it"),
        ({"stopped_by": "sweep"}, None, "It had not ended when the sweep did."),
    ],
)
def test_it_says_who_has_stopped_a_trial(board, row, scheduler, said):
    trials = [
        replace(each, row={**each.row, **row}) if each.row["status"] == "stopped" else each
        for each in board.trials
    ]
    page = Reader(as_page([replace(board, trials=trials, scheduler=scheduler)]))
    assert said in " ".join(" ".join(page.texts["p"]).split())


def test_numbers_sort_by_their_value_and_tables_are_there_without_scripts(page):
    tables = page.having("table", **{"class": "data"})
    # Settings, trials, a comparison for each setting with seeds, classes.
    assert len(tables) >= 2 + 4 + 1
    accuracies = page.having("td", **{"class": "average_accuracy number"})
    assert len(accuracies) == 5 + 15
    assert float(accuracies[0]["data-order"]) == pytest.approx(0.81)
    assert "" in [found["data-order"] for found in accuracies]


def test_what_people_wrote_is_text_and_not_markup(page):
    assert "no <b>good</b>" in "".join(page.texts["pre"])
    assert page.having("b") == []
    assert TRACEBACK.splitlines()[0] in "".join(page.texts["pre"])
    # A task is called `climate </script>`: the figures still end where they should.
    assert len(page.having("script")) == 4


def test_the_same_results_give_the_same_page(folder):
    assert as_page(read_boards(folder)) == as_page(read_boards(folder))


def test_text_and_pictures_can_be_read_on_both_grounds():
    style = (files("lamina.reporting") / "page" / "page.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        for ground in (scheme["ground"], scheme["card"]):
            assert all(contrast(scheme[ink], ground) >= 4.5 for ink in ("ink", "faint", "link"))
        assert all(contrast(colour, scheme["ground"]) >= 3 for colour in (*PALETTE, BOUND))

"""The whole way of a newcomer: init, sweep, report, predict, learn on, export, serve."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
TEAMS = {
    "billing": (520, ["invoice", "refund", "charge"]),
    "network": (380, ["wifi", "router", "vpn"]),
    "login": (300, ["password", "account", "captcha"]),
    "shipping": (220, ["parcel", "courier", "address"]),
    "printers": (160, ["printer", "toner", "tray"]),
    "payroll": (120, ["salary", "payslip", "bonus"]),
    "travel": (90, ["flight", "hotel", "visa"]),
    "legal": (70, ["contract", "licence", "clause"]),
    "hardware": (50, ["laptop", "monitor", "keyboard"]),
    "email": (40, ["inbox", "spam", "signature"]),
    "facilities": (30, ["heating", "lift", "parking"]),
    "security": (20, ["badge", "phishing", "virus"]),
}
NEW = {"returns": (60, ["return", "exchange", "voucher"]), "billing": TEAMS["billing"]}
FORMS = [
    "my {} is broken",
    "please help with the {}; it does not work",
    "where is my {}?",
    'the "new" {} fails, again',
    "{} 😢 since monday",
    "grüße, the {} is not there",
    "a question about our {}, urgent",
    "can somebody check the {} of room {}",
    "no {} for {} days",
    "I lost the {} number {}",
]
PLAIN = """
import csv, sys
sys.modules["lamina"] = None
from transformers import pipeline

folder, asked, said = sys.argv[1:]
with open(asked, encoding="utf-8", newline="") as file:
    texts = [row["body"] for row in csv.DictReader(file) if row["body"].strip()]
classify = pipeline("text-classification", f"{folder}/classifier", trust_remote_code=True)
with open(said, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["label", "score"])
    writer.writerows((each["label"], each["score"]) for each in classify(texts, truncation=True))
"""


def tickets(teams, of_each, draw):
    """Rows of text and team; one text in a hundred is empty."""
    rows = [
        (draw.choice(FORMS).format(draw.choice(nouns), draw.randint(1, 400)), team)
        for team, (number, nouns) in teams.items()
        for _ in range(of_each or number)
    ]
    draw.shuffle(rows)
    return [("" if index % 100 == 99 else text, team) for index, (text, team) in enumerate(rows)]


def write(path, rows, months, encoding="utf-8", delimiter=","):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["ticket", "created_at", "body", "team"])
        for index, (text, team) in enumerate(rows):
            month = months[index * len(months) // len(rows)]
            date = f"2026-{month:02d}-{1 + index % 28:02d}"
            writer.writerow([f"T-{index:05d}", date, text, team])


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """The folder after the whole way, and what was printed."""
    folder = tmp_path_factory.mktemp("way")
    draw = random.Random(0)
    rows = tickets(TEAMS, None, draw)
    assert len(rows) == 2000
    year = list(range(1, 12))
    write(folder / "tickets.csv", rows, year)
    latin = [(text.replace("😢", ":("), team) for text, team in rows]
    write(folder / "tickets_latin1.csv", latin, year, "latin-1", ";")
    write(folder / "december.csv", tickets(NEW, 40, draw), [12])
    write(folder / "new.csv", tickets(TEAMS, 5, draw), [12])
    (folder / "plain.py").write_text(PLAIN)
    smaller = ["training.learning_rate=2e-3", "training.epochs=2", "scenario.limit_per_class=6"]
    bin_of_python = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", HELPERS / "whole_way.sh", folder, *smaller],
        env={**os.environ, "PATH": f"{bin_of_python}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder, done.stdout + done.stderr


pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_the_file_is_understood_in_either_encoding(way):
    folder, said = way
    assert said.count("4 tasks, domain_incremental, a task for each quarter of 'created_at'") == 2
    assert "20 of 2,000 rows are empty and left out" in said
    assert "encoding" in (folder / "tickets_latin1.yaml").read_text()
    assert said.count(": ok: ") >= 2


def test_the_sweep_ranks_its_trials_and_the_report_has_all_of_them(way):
    folder, _ = way
    rows = json.loads((folder / "runs" / "tickets" / "leaderboard.json").read_text())["trials"]
    assert {row["status"] for row in rows} == {"finished"}
    page = (folder / "runs" / "tickets" / "report.html").read_text(encoding="utf-8")
    assert all(row["name"] in page for row in rows)


def test_new_tickets_get_teams_most_of_them_the_right_ones(way):
    folder, _ = way
    asked = [row for row in read(folder / "new.csv")]
    said = {int(row["row"]): row["label"] for row in read(folder / "said.csv")}
    full = [n for n, row in enumerate(asked, start=1) if row["body"]]
    assert sorted(said) == full
    right = sum(said[n] == asked[n - 1]["team"] for n in full)
    assert right > 0.6 * len(full)


def test_december_is_one_task_more_and_its_new_team_is_known(way):
    folder, _ = way
    facts = json.loads((folder / "december" / "bundle.json").read_text())
    assert len(facts["tasks"]) == 5
    assert facts["class_names"][-1] == "returns"
    labels = [row["label"] for row in read(folder / "said_december.csv")]
    assert labels.count("returns") > 20


def test_plain_transformers_say_the_same_as_the_exported_bundle(way):
    folder, _ = way
    ours, theirs = read(folder / "said_exported.csv"), read(folder / "plain.csv")
    assert [row["label"] for row in ours] == [row["label"] for row in theirs]
    for own, other in zip(ours, theirs, strict=True):
        assert float(own["score"]) == pytest.approx(float(other["score"]), abs=1e-4)


def test_the_server_answers_curl(way):
    folder, _ = way
    answer = json.loads((folder / "answer.json").read_text())
    assert "returns" in json.dumps(answer)


def test_its_token_came_in_the_environment_which_no_other_process_inherited(way):
    folder, _ = way
    (holder,) = (folder / "holders.txt").read_text().split()
    assert holder == f"/proc/{(folder / 'server.txt').read_text().strip()}/environ"
    assert (folder / "stranger.txt").read_text() == "401"


def test_the_server_stops_at_ctrl_c(way):
    folder, _ = way
    log = (folder / "serve.log").read_text()
    assert log.splitlines()[-1] == "stopped"
    assert "Traceback" not in log

"""`lamina init` writes a job that runs unchanged, and says what it saw."""

import csv
import json

import pytest
import yaml
from PIL import Image

from lamina.config import expand, load_job, parse_job
from lamina.config.proposal import propose
from tickets import tickets, write_tickets


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_rows(path, rows):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def sentences(classes, each, **more):
    return [
        {"text": f"{name} is what sentence {n} is about", "label": name}
        | {key: values[n % len(values)] for key, values in more.items()}
        for name in classes
        for n in range(each)
    ]


@pytest.mark.parametrize(
    ("encoding", "delimiter", "keys"),
    [
        ("utf-8", ",", {}),
        ("latin-1", ";", {"encoding": "cp1252", "delimiter": ";"}),
    ],
)
def test_two_thousand_tickets_of_twelve_teams_make_a_job_of_tasks_by_date(
    encoding, delimiter, keys, lamina, tmp_path
):
    write_tickets(tmp_path / "tickets.csv", 2000, encoding=encoding, delimiter=delimiter)
    result = lamina("init", "tickets.csv")
    assert result.exit_code == 0, result.stderr
    job = yaml.safe_load((tmp_path / "tickets.yaml").read_text(encoding="utf-8"))
    assert job["stream"] == {
        "name": "huggingface",
        "path": "tickets.csv",
        **keys,
        "text_column": "Ticket text",
        "label_column": "team",
        "empty": "skip",
        "min_per_class": 5,
    }
    assert job["scenario"] == {
        "kind": "domain_incremental",
        "by": "created at",
        "every": "quarter",
    }
    assert job["training"]["class_weights"] == "balanced"
    for said in (
        "'team': labels: 12 classes of 167 rows on average, and its name",
        "'ticket id': left out, another in every row: an id",
        "are empty and left out",
        "unbalanced: 'Billing' has 390 training rows and 'Büroküche' 4",
        "4 tasks, domain_incremental, a task for each quarter of 'created at'",
        "tickets.yaml: ok: 8 trials, 4 strategies, 4 tasks, 12 classes",
    ):
        assert said in result.output


def test_what_it_writes_runs_unchanged(lamina, tmp_path):
    write_rows(tmp_path / "my rows.csv", sentences("abcd", 12))
    assert lamina("init", "my rows.csv").exit_code == 0
    plan = expand(load_job("my_rows.yaml"))
    assert {point.trial.job.strategy_name for point in plan.points} == {
        "ranpac",
        "er",
        "finetune",
        "joint",
    }
    assert not any("changes nothing" in note for note in plan.notes)
    assert all(point.trial.job.training.class_weights is None for point in plan.points)
    result = lamina("run", "my_rows.yaml", "tracking.enabled=false")
    assert result.exit_code == 0, result.output
    assert result.output.count("changes nothing") == 1, "the sweep, for `lamina run`"
    assert "runs/my_rows" in result.output


def test_a_column_of_tasks_makes_tasks_of_shared_or_own_classes(lamina, tmp_path):
    write_rows(tmp_path / "shared.csv", sentences("ab", 20, domain=("x", "y")))
    assert lamina("init", "shared.csv").exit_code == 0
    shared = yaml.safe_load((tmp_path / "shared.yaml").read_text())
    assert (shared["scenario"]["kind"], shared["stream"]["task_column"]) == (
        "domain_incremental",
        "domain",
    )
    own = [{**row, "domain": row["label"] in "ab"} for row in sentences("abcd", 12)]
    write_rows(tmp_path / "own.csv", own)
    assert lamina("init", "own.csv").exit_code == 0
    assert yaml.safe_load((tmp_path / "own.yaml").read_text())["scenario"] == {
        "kind": "class_incremental"
    }


def test_a_person_may_choose_the_tasks(lamina, tmp_path):
    write_tickets(tmp_path / "t.csv", 300)
    chosen = {
        "classes": {"kind": "class_incremental", "num_tasks": 3},
        "channel": {"kind": "domain_incremental"},
        "created at": {"kind": "domain_incremental", "by": "created at", "num_tasks": 2},
    }
    for tasks, scenario in chosen.items():
        assert lamina("init", "t.csv", "--tasks", tasks, "-o", f"{tasks}.yaml").exit_code == 0
        assert yaml.safe_load((tmp_path / f"{tasks}.yaml").read_text())["scenario"] == scenario
    text = (tmp_path / "classes.yaml").read_text()
    assert "# scenario: {kind: domain_incremental, by: created at" in text


def test_a_folder_of_splits_has_its_own_test_part_and_texts_of_two_columns(lamina, tmp_path):
    rows = [
        {"subject": f"subject {n} of it", "body": f"{'ab'[n % 2]} goes on for long {n}"}
        | {"label": "ab"[n % 2]}
        for n in range(60)
    ]
    write_rows(tmp_path / "splits" / "train.csv", rows[:40])
    write_rows(tmp_path / "splits" / "test.csv", rows[40:])
    assert lamina("init", "splits").exit_code == 0
    stream = yaml.safe_load((tmp_path / "splits.yaml").read_text())["stream"]
    assert stream["text_column"] == ["subject", "body"]
    assert stream["test_split"] == "test"
    assert "validation_split" not in stream


def test_a_folder_of_images_gets_the_backbone_that_is_there_and_a_note(lamina, tmp_path):
    for number, name in enumerate(("cat", "dog")):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        for n in range(6):
            Image.new("RGB", (32, 32), (n * 20, number * 200, 0)).save(folder / f"{n}.png")
    result = lamina("init", "pets")
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "pets.yaml").read_text()
    assert yaml.safe_load(text)["backbone"] == {"name": "glyph_vit"}
    assert "for photographs a hub id" in text


def test_instructions_are_found_by_their_columns_and_their_tasks_by_a_column(
    lamina, tmp_path, tiny_language_model
):
    pairs = [(f"Which {kind} is number {n}?", f"{kind} {n}") for kind in "xyz" for n in range(12)]
    rows = [
        {
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": said},
            ],
            "category": said[0],
        }
        for asked, said in pairs
    ]
    (tmp_path / "chat.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    proposal = propose("chat.jsonl", tmp_path / "chat.yaml")
    assert proposal.lines[0].startswith("format messages (prompt 'messages'), by its columns")
    (tmp_path / "chat.yaml").write_text(proposal.text)
    words = [f"backbone.name={tiny_language_model}", "adapter.layers=[-1]", "training.epochs=1"]
    checked = lamina("check", "chat.yaml", *words)
    assert checked.exit_code == 0, checked.stderr
    assert "3 strategies, 3 tasks, answers of tokens, 36 rows" in checked.stdout
    ran = lamina("run", "chat.yaml", *words)
    assert ran.exit_code == 0, ran.stderr
    too_short = lamina("check", "chat.yaml", *words, "backbone.max_length=3")
    assert too_short.exit_code == 2
    assert "backbone.max_length: the answer of row " in too_short.stderr


def test_texts_alone_become_a_job_that_goes_on_with_training(tmp_path):
    rows = [{"text": f"This is text number {n} of a corpus."} for n in range(30)]
    (tmp_path / "corpus.json").write_text(json.dumps(rows))
    proposal = propose("corpus.json", tmp_path / "corpus.yaml")
    job = parse_job(yaml.safe_load(proposal.text))
    assert job.stream.words_per_row == 128
    assert job.training.measure == "perplexity"
    assert job.scenario.kind == "joint"


def test_names_that_yaml_reads_otherwise_stand_in_quotes(lamina, tmp_path):
    rows = [
        {"1e3": row["text"], "no: [x] #": row["label"], "2025-01-01": "null"}
        for row in sentences(("yes", "no"), 10)
    ]
    write_rows(tmp_path / "odd.csv", rows)
    result = lamina("init", "odd.csv", "--text", "1e3")
    assert result.exit_code == 0, result.stderr
    source = load_job("odd.yaml").stream
    assert (source.text_column, source.label_column) == ("1e3", "no: [x] #")


def test_what_cannot_become_a_job_is_said_in_one_line(lamina, tmp_path):
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "one.csv").write_text("text,label\n" + "a long text,same\n" * 9)
    write_rows(tmp_path / "there.csv", tickets(30))
    (tmp_path / "there.yaml").write_text("name: mine\n")
    for words, line in (
        (["numbers.csv"], "DATA: no column of 'numbers.csv' looks like labels; name it with"),
        (["one.csv", "--label", "label"], "stream.label_column: 'label' has fewer than two"),
        (["missing.csv"], "stream.path: 'missing.csv' does not exist"),
        (["there.csv"], "--output: 'there.yaml' is there already"),
        (["there.csv", "-o", "x.yaml", "--label", "taem"], "column: 'taem' is unknown; did you"),
    ):
        result = lamina("init", *words)
        assert result.exit_code == 2
        assert result.stderr.startswith(line)
        assert result.stderr.count("\n") == 1
    assert (tmp_path / "there.yaml").read_text() == "name: mine\n"

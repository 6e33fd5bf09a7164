"""From a file to a bundle, and what a bundle is good for afterwards, by commands alone."""

import csv
import json
import shutil

import pytest
import yaml
from click.testing import CliRunner

from lamina.cli import main

NOUNS = {"billing": "invoice", "network": "wifi", "shipping": "parcel", "login": "password"}
PHRASES = [
    "my {} is wrong",
    "please help with the {}",
    "the {} does not work, again",
    "where is the {}?",
    "I lost my {} 😢",
    "a question about this {}",
    'the "new" {} is broken',
    "{}; nothing works",
    "grüße, the {} is late",
    "can you check the {}",
    "what about my {}",
    "no {} since monday",
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with tickets of four teams, and a job that has been run on the first ones."""
    folder = tmp_path_factory.mktemp("shop")
    write(folder / "tickets.csv", NOUNS)
    write(folder / "december.csv", {"returns": "refund", "legal": "contract"})
    job = {
        "stream": {
            "name": "huggingface",
            "path": str(folder / "tickets.csv"),
            "text_column": "text",
            "label_column": "team",
        },
        "scenario": {"kind": "class_incremental", "num_tasks": 2},
        "backbone": {"name": "minilm"},
        "adapter": None,
        "strategy": {"name": "ncm"},
        "tracking": {"enabled": False},
        "output_dir": str(folder / "out"),
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = lamina("run", folder / "job.yaml")
    assert done.exit_code == 0, done.output
    return folder


def write(path, nouns):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "team"])
        writer.writerows([p.format(noun), team] for team, noun in nouns.items() for p in PHRASES)


def lamina(*words, **options):
    return CliRunner().invoke(main, [str(word) for word in words], **options)


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


def test_predict_gives_a_line_for_each_row_in_their_order(shop):
    done = lamina("predict", shop / "out", shop / "tickets.csv", "--top-k", 2)
    assert done.exit_code == 0, done.output
    rows = rows_of(done.stdout)
    assert [row["row"] for row in rows] == [str(n) for n in range(1, 49)]
    right = [row["label"] for row in rows] == [team for team in NOUNS for _ in PHRASES]
    assert (
        right
        or sum(
            r["label"] == t for r, t in zip(rows, [t for t in NOUNS for _ in PHRASES], strict=True)
        )
        > 40
    )
    assert all(float(row["score"]) >= float(row["score_2"]) for row in rows)
    assert all(row["label_2"] in NOUNS for row in rows)


def test_predict_explains_itself_where_there_are_labels(shop):
    done = lamina("predict", shop / "out", shop / "tickets.csv", "--explain")
    assert "macro F1" in done.stderr
    assert "most often taken for" in done.stderr
    for team in NOUNS:
        assert team in done.stderr
    lost = lamina(
        "predict", shop / "out", shop / "tickets.csv", "stream.label_column=x", "--explain"
    )
    assert lost.exit_code == 2
    assert lost.stderr.startswith("--explain: the rows have no labels")


def test_classes_that_the_bundle_does_not_know_are_counted_and_said(shop):
    done = lamina("predict", shop / "out", shop / "december.csv", "--explain")
    assert done.exit_code == 0
    assert "24 of 24 rows have no class that the bundle knows ('returns', 'legal')" in done.stderr


def test_lines_of_standard_input_are_answered(shop):
    words = ("predict", shop / "out", "-", "--format", "jsonl")
    done = lamina(*words, input="my wifi is wrong\n\nwhere is the parcel?\n")
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["row"], first["label"]) == (1, "network")
    assert (second["row"], second["label"]) == (3, "shipping")
    assert 0 < first["score"] <= 1


def test_other_columns_delimiters_and_encodings_are_told_as_a_job_tells_them(shop, tmp_path):
    path = tmp_path / "new.csv"
    path.write_bytes("nr;body\n1;das wifi geht nicht, grüße\n2;\n3;my parcel\n".encode("latin-1"))
    words = ("stream.text_column=body", "stream.delimiter=;", "stream.encoding=latin-1")
    done = lamina("predict", shop / "out", path, *words, "-o", tmp_path / "said.csv")
    assert done.exit_code == 0, done.output
    assert "1 of 3 rows is empty and left out" in done.stderr
    rows = rows_of((tmp_path / "said.csv").read_text())
    assert [(row["row"], row["label"]) for row in rows] == [("1", "network"), ("3", "shipping")]
    wrong = lamina("predict", shop / "out", path)
    assert wrong.exit_code == 2
    assert len(wrong.stderr.splitlines()) == 1


def test_what_cannot_be_asked_is_said_in_one_line(shop, tmp_path):
    for words, said in (
        (("predict", tmp_path, shop / "tickets.csv"), "holds no bundle"),
        (("predict", shop / "out", tmp_path / "x.csv"), "does not exist"),
        (("predict", shop / "out", shop / "tickets.csv", "--task", "task 1"), "know no task"),
        (("predict", shop / "out", shop / "tickets.csv", "training.epochs=1"), "training"),
        (("predict", shop / "out", shop / "tickets.csv", "--trial", "ncn"), "did you mean 'ncm'"),
        (("learn", shop / "out", "training.epochs=1"), "what is to be learned?"),
        (("learn", shop / "out", f"stream.path={shop}/december.csv", "seed=3"), "seed"),
    ):
        done = lamina(*words)
        assert done.exit_code == 2, words
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_learn_adds_a_task_and_leaves_the_old_bundle_as_it_was(shop):
    (old,) = (shop / "out" / "run").glob("*/bundle")
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    done = lamina("learn", shop / "out", f"stream.path={shop / 'december.csv'}")
    assert done.exit_code == 0, done.output
    assert "ncm learns 16 rows of 2 new classes and 0 known" in done.stdout
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    new = old.with_name("bundle-3-tasks")
    facts = json.loads((new / "bundle.json").read_text())
    assert [each["name"] for each in facts["tasks"]] == ["task 1", "task 2", "december"]
    assert facts["class_names"][-2:] == ["legal", "returns"]
    assert [len(row) for row in facts["test"]] == [3, 3, 3]
    assert None not in facts["test"][-1]
    assert len(facts["origin"]) == 1
    said = lamina("predict", new, shop / "december.csv", "--explain")
    assert "accuracy" in said.stderr
    again = lamina("learn", shop / "out", f"stream.path={shop / 'december.csv'}")
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_a_fork_of_a_run_that_has_ended_learns_on(shop, tmp_path):
    moved = tmp_path / "out"
    shutil.copytree(shop / "out", moved, ignore=shutil.ignore_patterns("bundle-*"))
    (bundle,) = moved.glob("run/*/bundle")
    given = f"stream.path={shop / 'december.csv'}"
    refused = lamina("fork", moved, "ncm")
    assert (refused.exit_code, "what is to be learned?" in refused.stderr) == (2, True)
    forked = lamina("fork", moved, "ncm", given)
    assert forked.exit_code == 0, forked.output
    learned = lamina("learn", bundle, given, "-o", tmp_path / "learned")
    assert learned.exit_code == 0, learned.output
    new = bundle.with_name("bundle-3-tasks")
    assert (new / "model.safetensors").read_bytes() == (
        tmp_path / "learned" / "model.safetensors"
    ).read_bytes()


def test_learn_goes_on_where_the_old_rows_are_gone_and_says_so(shop, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(shop / "out", moved)
    (bundle,) = moved.glob("run/*/bundle")
    (shop / "tickets.csv").rename(shop / "hidden.csv")
    try:
        path = f"stream.path={shop / 'december.csv'}"
        done = lamina("learn", bundle, path, "-o", tmp_path / "new")
    finally:
        (shop / "hidden.csv").rename(shop / "tickets.csv")
    assert done.exit_code == 0, done.output
    assert "2 earlier tasks have no rows here any more" in done.stdout
    facts = json.loads((tmp_path / "new" / "bundle.json").read_text())
    assert facts["test"][-1][:2] == [None, None]
    assert facts["test"][-1][2] is not None


def test_learn_takes_the_tasks_that_a_column_of_the_new_file_names(shop):
    path = shop / "spring.csv"
    write(path, {"returns": "refund", "legal": "contract"})
    header, *lines = path.read_text().splitlines()
    tasks = ["march" if line.endswith("returns") else "april" for line in lines]
    rows = [f"{line},{task}" for line, task in zip(lines, tasks, strict=True)]
    path.write_text("\n".join([f"{header},month", *rows]) + "\n")
    given = (f"stream.path={path}", "stream.task_column=month")
    done = lamina("learn", shop / "out", *given, "-o", shop / "spring")
    assert done.exit_code == 0, done.output
    assert "march" in done.output
    assert "april" in done.output


def test_learn_goes_on_with_a_stream_that_was_cut_into_periods(shop):
    dated = {}
    for month in ("01", "02"):
        path = shop / f"dated{month}.csv"
        write(path, NOUNS)
        header, *lines = path.read_text().splitlines()
        rows = [f"{line},2026-{month}-{at % 12 + 1:02}" for at, line in enumerate(lines)]
        path.write_text("\n".join([f"{header},created", *rows]) + "\n")
        dated[month] = f"stream.path={path}"
    cut = "scenario={kind: domain_incremental, by: created, num_tasks: 2}"
    ran = lamina("run", shop / "job.yaml", dated["01"], cut, f"output_dir={shop / 'dated'}")
    assert ran.exit_code == 0, ran.output
    done = lamina("learn", shop / "dated", dated["02"], "-o", shop / "dated_on")
    assert done.exit_code == 0, done.output
    assert "dated02" in done.output


def test_a_joint_bundle_of_a_method_that_replays_has_no_next_task(shop):
    words = ("strategy.name=er", "scenario.kind=joint", "scenario.num_tasks=null")
    memory = "memory={policy: ring, size: 8}"
    out = f"output_dir={shop / 'joint'}"
    ran = lamina("run", shop / "job.yaml", *words, memory, "training.epochs=1", out)
    assert ran.exit_code == 0, ran.output
    assert "memory changes nothing: rows enter it when their task ends" in ran.output
    done = lamina("learn", shop / "joint", f"stream.path={shop / 'december.csv'}")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("BUNDLE: strategy 'er' replays, and a joint stream left it no")


def test_a_leaderboard_that_is_damaged_is_one_line(tmp_path):
    (tmp_path / "leaderboard.json").write_text("{broken")
    done = lamina("predict", tmp_path, "-")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "leaderboard.json' is not JSON" in line


def test_a_device_that_is_not_there_is_refused_before_anything_is_learned(shop, tmp_path):
    path = f"stream.path={shop / 'december.csv'}"
    done = lamina("learn", shop / "out", path, "hosts.device=cuda", "-o", tmp_path / "new")
    assert done.exit_code == 2
    assert not (tmp_path / "new").exists()

"""Any data set through `datasets`: files of every kind, and what is said when one is wrong."""

import csv
import json
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from lamina.core import PARTS
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, build_stream, make_stream, source_class

HuggingFace = source_class("huggingface")
CLINC150 = Path(__file__).parents[2].parent / "shared" / "data" / "clinc150"
ROWS = [
    {"text": f"{topic} {label} {number}", "label": label, "topic": topic}
    for topic in ("home", "work")
    for label in ("ask", "tell")
    for number in range(6)
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write_csv(path: Path, rows: list[dict[str, str]], columns=("text", "label", "topic")) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write(folder: Path, kind: str) -> str:
    path = folder / f"rows.{kind}"
    if kind == "csv":
        return write_csv(path, ROWS)
    if kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_a_file_of_any_kind_gives_the_same_table_and_no_noise(kind, tmp_path, capfd):
    path = write(tmp_path, kind)
    capfd.readouterr()
    table = HuggingFace(path=path, text_column="text", task_column="topic").load(seed=0)
    assert capfd.readouterr() == ("", "")
    assert list(table.values) == [row["text"] for row in ROWS]
    assert list(table.labels) == [row["label"] for row in ROWS]
    assert list(table.groups) == [row["topic"] for row in ROWS]
    assert list(table.classes) == ["ask", "tell"]


def test_a_column_says_whom_rows_belong_to(tmp_path):
    path = write(tmp_path, "csv")
    table = HuggingFace(path=path, text_column="text", client_column="topic").load(seed=0)
    assert table.owners == {"topic": [row["topic"] for row in ROWS]}
    assert HuggingFace(path=path, text_column="text").load(seed=0).owners == {}


def test_progress_bars_are_as_they_were_afterwards(tmp_path):
    before = datasets.are_progress_bars_disabled()
    HuggingFace(path=write(tmp_path, "csv"), text_column="text").load(seed=0)
    assert datasets.are_progress_bars_disabled() == before


def test_a_relative_path_is_read_from_where_the_job_is_started(tmp_path, monkeypatch):
    for folder, label in (("one", "first"), ("two", "second")):
        (tmp_path / folder).mkdir()
        write_csv(tmp_path / folder / "rows.csv", [{"text": "a", "label": label, "topic": "t"}])
        monkeypatch.chdir(tmp_path / folder)
        table = HuggingFace(path="rows.csv", text_column="text").load(seed=0)
        assert list(table.labels) == [label]


def test_a_folder_of_files_has_official_splits(tmp_path):
    write_csv(tmp_path / "train.csv", ROWS)
    write_csv(tmp_path / "test.csv", [row | {"text": row["text"] + "!"} for row in ROWS[::2]])
    source = HuggingFace(path=str(tmp_path), text_column="text", test_split="test")
    stream = build_stream(source, ScenarioSettings(kind="class_incremental", num_tasks=2), seed=0)
    assert all(text.endswith("!") for each in stream.experiences for text in each.test.values)
    assert sum(len(each.test) for each in stream.experiences) == 12
    assert sum(len(each.train) + len(each.validation) for each in stream.experiences) == 24


def test_a_folder_of_images_gives_uint8_images_of_its_class_folders(tmp_path):
    for label, grey in (("cat", 10), ("ant", 200)):
        (tmp_path / label).mkdir()
        for number in range(5):
            Image.new("L", (4, 3), grey + number).save(tmp_path / label / f"{number}.png")
    source = HuggingFace(path=str(tmp_path), image_column="image")
    stream = build_stream(source, ScenarioSettings(kind="class_incremental", num_tasks=2), seed=0)
    assert stream.modality == "image"
    assert stream.class_names == ("ant", "cat")
    image = stream.experiences[0].train.values[0]
    assert image.shape == (3, 4, 3)
    assert image.dtype == torch.uint8
    assert image.min() >= 200


def test_equal_texts_go_to_the_same_part(tmp_path):
    rows = [
        {"text": f"{spelling} {number}", "label": label, "topic": "t"}
        for label in ("ask", "tell")
        for number in range(10)
        for spelling in (f"good {label}", f"Good  {label}")
    ]
    source = HuggingFace(path=write_csv(tmp_path / "rows.csv", rows), text_column="text")
    table = source.load(seed=0)
    stream = make_stream(table, ScenarioSettings(kind="joint"), seed=0)
    texts = [
        {" ".join(text.casefold().split()) for text in stream.experiences[0].part(part).values}
        for part in PARTS
    ]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 20


def test_numbers_are_classes_in_numerical_order(tmp_path):
    rows = [{"text": f"t{n}", "label": str(n % 12), "topic": "t"} for n in range(60)]
    source = HuggingFace(path=write_csv(tmp_path / "rows.csv", rows), text_column="text")
    assert list(source.load(seed=0).classes) == [str(number) for number in range(12)]


def test_texts_may_be_numbers(tmp_path):
    datasets.Dataset.from_dict({"text": [7, 12], "label": ["a", "b"]}).to_parquet(
        str(tmp_path / "rows.parquet")
    )
    table = HuggingFace(path=str(tmp_path / "rows.parquet"), text_column="text").load(seed=0)
    assert list(table.values) == ["7", "12"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"path": "rows.cvs"},
            r"stream\.path: 'rows\.cvs' is no file or folder \(did you mean 'rows\.csv'\?\), and",
        ),
        (
            {"path": "row.csv"},
            r"stream\.path: 'row\.csv' does not exist \(did you mean 'rows\.csv'\?\)",
        ),
        ({"path": "./data"}, r"stream\.path: '\./data' does not exist"),
        ({"path": "nobody/nothing"}, r"stream\.path: 'nobody/nothing' is no file .* be reached$"),
        ({"path": "notes.txt"}, r"stream\.path: 'notes\.txt' is of no kind that is read .*\.csv"),
        ({"path": "empty.csv"}, r"stream\.path: 'empty\.csv' has no rows"),
        ({"path": "void.csv"}, r"stream\.path: 'void\.csv' cannot be read: "),
        ({"path": "folder"}, r"stream\.path: 'folder' cannot be read: "),
        ({"text_column": "txt"}, r"stream\.text_column: 'txt' is unknown; did you mean 'text'\?"),
        ({"label_column": "lable"}, r"stream\.label_column: 'lable' is .* did you mean 'label'\?"),
        ({"task_column": "topics"}, r"stream\.task_column: 'topics' is .* did you mean 'topic'\?"),
        ({"client_column": "user"}, r"stream\.client_column: 'user' is unknown"),
        (
            {"path": "holes.csv"},
            r"stream\.empty: 1 of 2 rows is empty: 1 without 'label' \(row 2\)",
        ),
        ({"test_split": "tests"}, r"stream\.test_split: 'tests' is unknown .*allowed: train"),
        (
            {"text_column": None, "image_column": "text"},
            r"stream\.image_column: 'text' has no images",
        ),
        ({"text_column": None}, r"stream\.text_column: give this or stream\.image_column"),
        ({"image_column": "image"}, r"stream\.text_column: give this or stream\.image_column"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_that_names_the_key(
    options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = [row | {"number": "1"} for row in ROWS]
    columns = ("text", "label", "topic", "number")
    write_csv(tmp_path / "rows.csv", rows, columns)
    write_csv(tmp_path / "holes.csv", [rows[0], rows[1] | {"label": ""}], columns)
    write_csv(tmp_path / "empty.csv", [])
    (tmp_path / "void.csv").touch()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"^{message}") as error:
        HuggingFace(**{"path": "rows.csv", "text_column": "text", **options}).load(seed=0)
    assert "\n" not in str(error.value)


def test_a_configuration_that_is_not_there_is_said_by_its_key(tmp_path):
    write(tmp_path, "csv")
    with pytest.raises(InputError, match=r"^stream\.config: .*'small'"):
        HuggingFace(path=str(tmp_path), config="small", text_column="text").load(seed=0)


def test_hidden_labels_are_refused(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = {"text": ["a", "b"], "label": [1, -1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(InputError, match=r"^stream\.label_column: 'label' is hidden .* row 2"):
        HuggingFace(path=str(tmp_path / "rows.parquet"), text_column="text").load(seed=0)


@pytest.mark.skipif(not CLINC150.is_dir(), reason=f"CLINC150 is not at {CLINC150}")
def test_clinc150_makes_a_stream_of_its_ten_domains(tmp_path):
    domains = json.loads((CLINC150 / "domains.json").read_text())
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    splits = json.loads((CLINC150 / "data_full.json").read_text())
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = [
            {"text": text, "label": intent, "topic": domain_of[intent]}
            for text, intent in splits[split]
        ]
        write_csv(tmp_path / f"{name}.csv", rows)
    source = HuggingFace(
        path=str(tmp_path),
        text_column="text",
        task_column="topic",
        validation_split="validation",
        test_split="test",
    )
    stream = build_stream(source, ScenarioSettings(kind="class_incremental"), seed=0)
    assert sorted(each.task.name for each in stream.experiences) == sorted(domains)
    assert all(len(each.task.classes) == 15 for each in stream.experiences)
    sizes = {part: sum(len(each.part(part)) for each in stream.experiences) for part in PARTS}
    assert sizes == {"train": 15_000, "validation": 3_000, "test": 4_500}


def dated(tmp_path, columns=("text", "label", "when")):
    """Twelve months of eight rows each, of two classes, the latest first."""
    rows = [
        {"text": f"{label} {month} {n}", "label": label, "when": f"2025-{month:02}-{n + 1:02}"}
        for month in range(12, 0, -1)
        for label in ("ask", "tell")
        for n in range(4)
    ]
    return write_csv(tmp_path / "dated.csv", rows, columns), rows


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"every": "quarter"}, [f"2025-Q{number}" for number in (1, 2, 3, 4)]),
        ({"num_tasks": 2}, ["2025-01-01 to 2025-06-04", "2025-07-01 to 2025-12-04"]),
    ],
)
def test_tasks_are_periods_of_a_column_of_dates_the_oldest_first(settings, names, tmp_path):
    path, _ = dated(tmp_path)
    scenario = ScenarioSettings("domain_incremental", by="when", **settings)
    stream = build_stream(HuggingFace(path=path, text_column="text"), scenario, seed=0)
    assert [each.task.name for each in stream.experiences] == names
    assert stream.class_names == ("ask", "tell")
    assert "tell 1 0" in [
        text for part in PARTS for text in stream.experiences[0].part(part).values
    ]


def test_rows_without_a_date_are_empty_rows(tmp_path):
    path, rows = dated(tmp_path)
    rows[3]["when"] = ""
    write_csv(Path(path), rows, ("text", "label", "when"))
    scenario = ScenarioSettings("domain_incremental", by="when", every="year")
    with pytest.raises(InputError, match=r"1 without 'when' \(row 4\)"):
        build_stream(HuggingFace(path=path, text_column="text"), scenario, seed=0)
    source = HuggingFace(path=path, text_column="text", empty="skip")
    (year,) = build_stream(source, scenario, seed=0).experiences
    assert sum(len(year.part(part)) for part in PARTS) == len(rows) - 1
    joint = build_stream(source, ScenarioSettings("joint", by="when"), seed=0)
    assert sum(len(joint.experiences[0].part(part)) for part in PARTS) == len(rows)


def test_dates_that_cannot_be_read_are_named_by_column_and_row(tmp_path):
    path, rows = dated(tmp_path)
    rows[3]["when"] = "soon"
    write_csv(Path(path), rows, ("text", "label", "when"))
    source = HuggingFace(path=path, text_column="text")
    scenario = ScenarioSettings("domain_incremental", by="when", every="year")
    with pytest.raises(InputError, match=r"scenario.by: 'when': 1 of .*'soon' \(row 4\)"):
        build_stream(source, scenario, seed=0)
    scenario = ScenarioSettings("domain_incremental", by="wen", every="year")
    with pytest.raises(InputError, match=r"scenario.by: 'wen' is unknown; did you mean 'when'"):
        build_stream(source, scenario, seed=0)
    digits = source_class("digits")()
    with pytest.raises(InputError, match=r"scenario.by: 'wen' cannot be read, as .* 'digits'"):
        build_stream(digits, scenario, seed=0)


def test_a_text_may_come_from_several_columns(tmp_path):
    rows = [
        {"subject": "Printer", "body": "it smokes", "label": "it"},
        {"subject": " ", "body": "no salary", "label": "hr"},
        {"subject": "Holiday", "body": "", "label": "hr"},
        {"subject": "", "body": " ", "label": "it"},
    ]
    path = write_csv(tmp_path / "mails.csv", rows, ("subject", "body", "label"))
    source = HuggingFace(path=path, text_column=["subject", "body"], empty="skip")
    table = source.load(seed=0)
    assert list(table.values) == ["Printer\nit smokes", "no salary", "Holiday"]
    assert "1 without 'subject and body' (row 4)" in table.notes[0].line
    source = HuggingFace(
        path=path, text_column=["body", "subject"], text_separator=" | ", empty="skip"
    )
    assert source.load(seed=0).values[0] == "it smokes | Printer"
    with pytest.raises(InputError, match=r"stream.text_column: 'subjct' is unknown"):
        HuggingFace(path=path, text_column=["subjct", "body"]).load(seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": []}, r"stream.text_column: \[\] is not allowed"),
        ({"text_column": ["a", "a"]}, "a list of different ones"),
        ({"text_column": "a", "text_separator": " "}, "stream.text_separator: ' ' changes nothing"),
    ],
)
def test_columns_of_texts_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        HuggingFace(path="x.csv", **settings)

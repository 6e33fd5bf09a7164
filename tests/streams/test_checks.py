"""What looks like a mistake in a data set is said with counts, and keys do what they say of it."""

import json

import pytest

from lamina.registry import InputError
from lamina.streams import ScenarioSettings, build_stream, source_class

HuggingFace = source_class("huggingface")
TWO_TASKS = ScenarioSettings("class_incremental", num_tasks=2)


def write(path, rows, columns=("text", "label")):
    lines = [",".join(columns), *(",".join(f'"{cell}"' for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def rows_of(*labels, number=10):
    return [(f"{label.strip()} text {n}", label) for label in labels for n in range(number)]


def stream_of(path, settings=TWO_TASKS, **options):
    source = HuggingFace(**{"path": str(path), "text_column": "text", **options})
    return build_stream(source, settings, seed=0)


def noted(stream, about):
    (note,) = [each for each in stream.record["notes"] if each["about"] == about]
    assert note["line"] in stream.notes
    return note


def test_all_empty_rows_are_counted_and_shown_at_once(tmp_path):
    rows = [(f"id-{n}", text, label) for n, (text, label) in enumerate(rows_of("a", "b"))]
    for place, (text, label) in {
        1: ("", "a"),
        3: ("  ", "a"),
        5: ("x", ""),
        6: ("", " "),
        8: ("\u200b", "b"),
    }.items():
        rows[place] = (rows[place][0], text, label)
    path = write(tmp_path / "rows.csv", rows, ("id", "text", "label"))
    with pytest.raises(InputError, match=r"^stream\.empty: 5 of 20 rows are empty: ") as error:
        stream_of(path)
    said = str(error.value)
    assert "4 without 'text' (row 2 (id id-1), row 4 (id id-3), row 7 (id id-6)" in said
    assert "2 without 'label' (row 6 (id id-5), row 7 (id id-6))" in said
    assert "stream.empty: skip" in said
    stream = stream_of(path, empty="skip")
    note = noted(stream, "empty_rows")
    assert (note["rows"], note["of"]) == (5, 20)
    sizes = [sum(each["sizes"].values()) for each in stream.record["tasks"]]
    assert sum(sizes) == 15


def test_a_null_and_a_missing_key_of_json_are_empty_and_the_word_null_is_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "null", "label": "None"}, {"text": "a", "label": None}, {"label": "None"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"^stream\.empty: 2 of 3 rows"):
        HuggingFace(path=str(path), text_column="text").load(seed=0)


def test_empty_tasks_and_clients_are_empty_rows_too(tmp_path):
    path = write(tmp_path / "rows.csv", [("a", "x", ""), ("b", "x", "t")], ("text", "label", "t"))
    for key in ("task_column", "client_column"):
        with pytest.raises(InputError, match=r"^stream\.empty: 1 of 2 rows is empty: .*'t'"):
            HuggingFace(path=path, text_column="text", **{key: "t"}).load(seed=0)


def test_nothing_left_is_refused(tmp_path):
    path = write(tmp_path / "rows.csv", [("", "x"), (" ", "y")])
    with pytest.raises(InputError, match=r"^stream\.empty: no row of split 'train' is left"):
        stream_of(path, empty="skip")


def test_labels_that_look_alike_are_said_and_stay_different(tmp_path):
    path = write(tmp_path / "rows.csv", rows_of("billing", "access", "billing ", "Access"))
    stream = stream_of(path)
    assert set(stream.class_names) == {"billing", "access", "billing ", "Access"}
    note = noted(stream, "alike_labels")
    assert (note["names"], note["look_like"], note["rows"]) == (4, 2, 20)
    assert (
        "'billing ' (row 21, row 22, row 23 and 7 more) beside 'billing' (10 rows)" in note["line"]
    )
    assert "stream.alike: merge" in note["line"]


def test_a_key_reads_names_that_look_alike_as_the_most_frequent_one(tmp_path):
    path = write(tmp_path / "rows.csv", [*rows_of("Access", number=3), *rows_of("access", "b")])
    stream = stream_of(path, alike="merge")
    assert stream.class_names == ("access", "b")
    assert noted(stream, "alike_labels")["rows"] == 3


def test_tasks_that_look_alike_are_said(tmp_path):
    rows = [
        (f"{task} {label} {n}", label, task)
        for task in ("home", "Home")
        for label in "ab"
        for n in range(8)
    ]
    path = write(tmp_path / "rows.csv", rows, ("text", "label", "topic"))
    domains = ScenarioSettings("domain_incremental")
    assert len(stream_of(path, domains, task_column="topic")) == 2
    merged = stream_of(path, domains, task_column="topic", alike="merge")
    assert len(merged) == 1
    assert noted(merged, "alike_tasks")["rows"] == 16


def test_rows_of_test_that_are_in_train_are_said_with_counts(tmp_path):
    train = rows_of("a", "b")
    test = [*train[:3], (train[3][0].upper(), "b"), *rows_of("a", "b", number=12)[10:12]]
    test.append(("b new", "b"))
    write(tmp_path / "train.csv", train)
    write(tmp_path / "test.csv", test)
    stream = stream_of(tmp_path, test_split="test")
    note = noted(stream, "test_rows_in_train")
    assert (note["rows"], note["of"], note["under_another_label"]) == (4, 7, 1)
    assert note["line"].startswith("4 of the 7 rows of test are in train as well, 1 of them under")


def test_texts_under_two_labels_are_said_with_counts(tmp_path):
    rows = [
        *rows_of("a", "b"),
        ("Same  text", "a"),
        ("same text", "b"),
        ("other", "a"),
        ("other", "b"),
    ]
    note = noted(stream_of(write(tmp_path / "rows.csv", rows)), "texts_of_several_labels")
    assert note["texts"] == 2
    assert note["line"].startswith("2 texts of train stand under more than one label: 'Same  text'")


def test_a_test_split_that_the_job_does_not_name_is_said(tmp_path):
    write(tmp_path / "train.csv", rows_of("a", "b"))
    write(tmp_path / "test.csv", rows_of("a", "b", number=2)[:3])
    note = noted(stream_of(tmp_path), "test_not_read")
    assert (note["rows"], note["test_rows_in_train"]) == (3, 3)


def test_a_sound_stream_has_nothing_to_say(tmp_path):
    assert stream_of(write(tmp_path / "rows.csv", rows_of("a", "b"))).notes == ()


def test_all_rare_classes_are_named_at_once_and_a_key_leaves_them_out(tmp_path):
    rows = [*rows_of("a", "b", "c"), *rows_of("d", "e", number=2), *rows_of("f", number=4)]
    path = write(tmp_path / "rows.csv", rows)
    with pytest.raises(InputError, match=r"^stream: class 'd' .* class 'e' .*min_per_class"):
        stream_of(path)
    stream = stream_of(path, min_per_class=5)
    assert sorted(stream.class_names) == ["a", "b", "c"]
    assert [len(each.task.classes) for each in stream.experiences] == [2, 1]
    note = noted(stream, "rare_classes")
    assert (note["classes"], note["rows"]) == (3, 8)
    assert sorted(stream_of(path, min_per_class=1).class_names) == ["a", "b", "c", "f"]
    with pytest.raises(InputError, match=r"^stream\.min_per_class: 99 leaves no class"):
        stream_of(path, min_per_class=99)


def test_a_class_is_rare_within_its_domain(tmp_path):
    rows = [
        (f"{task} {label} {n}", label, task) for task in "xy" for label in "ab" for n in range(8)
    ]
    rows += [("x c", "c", "x"), *((f"y c {n}", "c", "y") for n in range(8))]
    path = write(tmp_path / "rows.csv", rows, ("text", "label", "topic"))
    domains = ScenarioSettings("domain_incremental")
    stream = stream_of(path, domains, task_column="topic", min_per_class=1)
    classes = [[stream.class_names[c] for c in each.task.classes] for each in stream.experiences]
    assert classes == [["a", "b"], ["a", "b", "c"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_per_class": 0}, r"stream\.min_per_class: 0 is too few"),
        ({"delimiter": ";;"}, r"stream\.delimiter: ';;' is not allowed"),
        ({"delimiter": '"'}, r"stream\.delimiter: .* is stream\.quote as well"),
        ({"test_split": "train"}, r"stream\.test_split: 'train' is stream\.train_split as well"),
    ],
)
def test_keys_that_make_no_sense_are_refused(options, message, tmp_path):
    path = write(tmp_path / "rows.csv", rows_of("a"))
    with pytest.raises(InputError, match=f"^{message}"):
        HuggingFace(path=path, text_column="text", **options).load(seed=0)

"""Tables are read as they are written, and what does not parse is said with what would."""

import bz2
import codecs
import datetime
import gzip
import json
import lzma

import datasets
import pandas
import pyarrow as pa
import pytest
from pyarrow import parquet

from lamina.registry import InputError
from lamina.streams import ScenarioSettings, build_stream, source_class

HuggingFace = source_class("huggingface")
CODES = ["007", "7", "070", "70", "1", "01", "1.10", "1.1", "TRUE", "true", "1e3", "1000", "None"]
WORDS = ["NA", "null", "nan", "n/a", "N/A", "NULL", "NaN", "-", "#N/A", "inf", "0x10", "1_000", "½"]
NAMES = [*CODES, *WORDS]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def table_of(path, **options):
    return HuggingFace(**{"path": str(path), "text_column": "text", **options}).load(seed=0)


def quoted(rows, delimiter=",", header="text,label"):
    lines = [header.replace(",", delimiter)]
    lines += [delimiter.join(f'"{cell}"' for cell in row) for row in rows]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("role", ["label", "text", "task", "client"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_names_are_what_the_file_says(kind, role, tmp_path):
    rows = [{"text": "t", "label": "l", "topic": "t", "user": "u"} for _ in NAMES]
    column = {"label": "label", "text": "text", "task": "topic", "client": "user"}[role]
    for row, name in zip(rows, NAMES, strict=True):
        row[column] = name
    path = tmp_path / f"rows.{kind}"
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        lines = [mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]
        path.write_text("\n".join(lines))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    table = table_of(path, task_column="topic", client_column="user")
    found = {
        "label": table.labels,
        "text": table.values,
        "task": table.groups,
        "client": table.owners["user"],
    }
    assert list(found[role]) == NAMES


def test_what_stands_far_down_changes_nothing_further_up(tmp_path):
    path = tmp_path / "rows.csv"
    labels = [["007", "7", "01", "1"][number % 4] for number in range(12_000)]
    labels[10_500], labels[11_000], labels[11_500] = "x", "None", "1.50"
    lines = [f"text {number},{label}" for number, label in enumerate(labels)]
    path.write_text("\n".join(["text,label", *lines]))
    assert list(table_of(path).labels) == labels


def test_numbers_of_json_are_names_as_they_are_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    written = ["7", '"7"', "1.10", "1e3", "true", "12345678901234567890", "-0.0", '"True"']
    path.write_text("\n".join(f'{{"text": "t", "label": {each}}}' for each in written))
    names = ["7", "7", "1.10", "1e3", "true", "12345678901234567890", "-0.0", "True"]
    assert list(table_of(path).labels) == names


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([7, 12, 7], ["7", "12", "7"]),
        ([7.0, 1.5, 7.0], ["7", "1.5", "7"]),
        ([True, False, True], ["true", "false", "true"]),
        ([datetime.date(2026, 1, 2)] * 3, ["2026-01-02"] * 3),
        (pa.array([0.1, 2.0, 0.1], pa.float32()), ["0.1", "2", "0.1"]),
        (pa.array(["a", "007", "a"]).dictionary_encode(), ["a", "007", "a"]),
        (pa.array(["a", "007", "a"], pa.large_string()), ["a", "007", "a"]),
    ],
)
def test_values_of_parquet_are_names_as_arrow_writes_them(values, names, tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": ["a", "b", "c"], "label": values}), path)
    assert list(table_of(path).labels) == names


def test_classes_come_by_number_only_where_all_are_different_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    for labels, order in [
        (["10", "9", "-1", "2.5"], ["-1", "2.5", "9", "10"]),
        (["7", "007", "10", "9"], ["007", "10", "7", "9"]),
        (["b", "10", "9"], ["10", "9", "b"]),
    ]:
        path.write_text("text,label\n" + "".join(f"t,{label}\n" for label in labels))
        assert list(table_of(path).classes) == order


def test_cells_may_hold_quotes_delimiters_line_breaks_and_any_letter(tmp_path):
    texts = [
        "a, b; c",
        'say ""hi""',
        "two\nlines",
        "two\r\nlines",
        "🙂 emoji",
        "  blanks  ",
        "a\tb",
    ]
    path = tmp_path / "rows.csv"
    path.write_bytes(quoted([(text, "l") for text in texts]).encode())
    read = [text.replace('""', '"') for text in texts]
    assert list(table_of(path).values) == read


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_byte_order_marks_and_blank_lines_are_no_content(ends, mark, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes((mark + ends.join(["text,label", "a,x", "", "b,y", "", ""])).encode())
    table = table_of(path)
    assert (list(table.values), list(table.labels)) == (["a", "b"], ["x", "y"])


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_proposed_and_taken(delimiter, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(quoted([("a, b", "x"), ("c", "y")], delimiter))
    with pytest.raises(InputError, match=r"^stream\.delimiter: .* did you mean ") as error:
        table_of(path)
    assert repr(delimiter).strip("'") in str(error.value)
    table = table_of(path, delimiter=delimiter)
    assert (list(table.values), list(table.labels)) == (["a, b", "c"], ["x", "y"])


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "sep=;\r"])
def test_a_first_line_of_excel_says_the_delimiter(line, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(f"{line}\ntext;label\na, b;x\nc;y\n", encoding="utf-8-sig", newline="")
    for delimiter in (None, ";"):
        table = table_of(path, delimiter=delimiter)
        assert (list(table.values), list(table.labels)) == (["a, b", "c"], ["x", "y"])
    with pytest.raises(InputError, match=r"^stream\.delimiter: ',' is not what .*sep=;"):
        table_of(path, delimiter=",")
    path.write_text(f"{line}\ntext;label\na;x;z\n", newline="")
    with pytest.raises(InputError, match=r"3 cells in row 1 \(line 3\)"):
        table_of(path)


@pytest.mark.parametrize("orient", ["columns", "index", "split"])
def test_a_table_that_pandas_wrote_by_columns_is_said_to_need_rows(orient, tmp_path):
    path = tmp_path / "data.json"
    frame = pandas.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})
    frame.to_json(path, orient=orient)
    with pytest.raises(InputError, match=r'as df\.to_json\(path, orient="records"\) writes'):
        table_of(path)
    frame.to_json(path, orient="records")
    assert list(table_of(path).labels) == ["x", "y"]


@pytest.mark.parametrize(
    ("encoding", "proposed"),
    [("latin-1", "cp1252"), ("cp1252", "cp1252"), ("utf-16", "utf-16"), ("utf-16-le", "utf-16-le")],
)
@pytest.mark.parametrize("kind", ["csv", "csv.gz"])
def test_another_encoding_is_proposed_and_taken(encoding, proposed, kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    content = "text,label\nplain,x\ncafé crème,été\n".encode(encoding)
    path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    with pytest.raises(InputError, match=rf"^stream\.encoding: .* did you mean '{proposed}'\?"):
        table_of(path)
    for each in (encoding, proposed):
        assert list(table_of(path, encoding=each).values) == ["plain", "café crème"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_byte_order_mark_before_another_encoding_is_no_content(kind, tmp_path):
    path = tmp_path / f"rows.{kind}"
    rows = {"csv": "text,label\né,x\nb,y\n", "jsonl": '{"text": "é", "label": "x"}\n'}[kind]
    path.write_bytes(codecs.BOM_UTF8 + rows.encode("latin-1"))
    with pytest.raises(InputError, match=r"^stream\.encoding: .* did you mean 'cp1252'\?"):
        table_of(path)
    assert table_of(path, encoding="cp1252").values[0] == "é"
    path.write_bytes(codecs.BOM_UTF16_LE + rows.encode("utf-16-le"))
    assert table_of(path, encoding="utf-16-le").values[0] == "é"


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-88", "'utf-88' is unknown; .*'utf-8'"),
        ("base64", "'base64' is unknown"),
        ("zip", "'zip' is unknown"),
        ("undefined", "'undefined' is unknown"),
        ("utf-16", r".* is not utf-16 .* did you mean 'utf-8'\?"),
    ],
)
def test_an_encoding_that_is_none_is_refused(encoding, message, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,x\n")
    with pytest.raises(InputError, match=rf"^stream\.encoding: {message}") as error:
        table_of(path, encoding=encoding)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'text,label\n"a,x\nb,y\n', r"stream\.path: .* does not parse .*stream\.quote"),
        ("a.csv", 'text,label\n"a" b,x\n', r"stream\.path: .* does not parse .*stream\.quote"),
        ("a.csv", 'text,"label\na,x\n', r"stream\.path: .* does not parse .*stream\.quote"),
        ("a.csv", "  \n\n", r"stream\.path: .* it is empty"),
        ("a.csv", "text,label\na, b,x\n", r"stream\.path: .* has 3 cells in row 1 \(line 2\)"),
        ("a.csv", "text,label,label\na,x,y\n", r"stream\.label_column: 2 columns .*'label'"),
        ("a.csv", "text,lable\na,x\n", r"stream\.label_column: 'label' .* did you mean 'lable'\?"),
        ("a.csv", b"PK\x03\x04\xff", r"stream\.path: .* is no text but a zip archive or an Excel"),
        ("a.csv.gz", b"text,label\na,x\n", r"stream\.path: .* cannot be read: "),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"', r"stream\.path: .* in line 2 "),
        ("a.json", '[{"text": "a", "label": 1},\n{"text" "b"}]', r"stream\.path: .* in line 2 "),
        ("a.json", '[{"text": "a", "text": "b"}]', r"stream\.path: .*'text' is given twice"),
        ("a.jsonl", '{"text": "a",\n{"text": "b"}\n{', r"stream\.path: .* in line 1 "),
        ("a.json", "[" * 100_000, r"stream\.path: .* too deep"),
        ("a.json", "[]", r"stream\.path: .* has no rows"),
        ("a.json", "{}", r"stream\.path: .* has no rows"),
        ("a.json", '[{"text": "a"}, null]', r"stream\.path: row 2 of .* is null \(allowed: an obj"),
        ("a.jsonl", '{"text": "a"}\n["b"]', r"stream\.path: row 2 of .* is a list"),
        ("a.json", "[]".encode("utf-16-le"), r"stream\.encoding: .* did you mean 'utf-16-le'"),
        ("a.json", '[{"text": "a", "label": "\\ud83d"}]', r"stream\.label_column: .*half a char"),
        ("a.json", '[["a", "x"]]', r"stream\.path: .* has no rows \(allowed: a list of objects"),
        (
            "a.json",
            '[{"text": "a", "label": [1]}]',
            r"stream\.path: column 'label' .* a list in row",
        ),
        ("a.json", '[{"text": "\\ud83d", "label": 1}]', r"stream\.text_column: .*half a character"),
        ("a.parquet", b"text,label\na,x\n", r"stream\.path: .* cannot be read: "),
    ],
)
def test_what_does_not_parse_is_said_in_one_line(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"^{message}") as error:
        table_of(path)
    assert "\n" not in str(error.value)


def test_quotes_may_mean_nothing(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"half a quote\tx\n5" screen\ty\n')
    with pytest.raises(InputError, match=r"stream\.quote"):
        table_of(path)
    assert list(table_of(path, quote="").values) == ['"half a quote', '5" screen']


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"data": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}, "data"),
        ({"v": {"rows": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}}, "v.rows"),
        ({"v.2": [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]}, "v.2"),
        ({"text": ["a", "b"], "label": ["x", "y"]}, None),
    ],
)
def test_rows_may_stand_within_a_document(document, field, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(document))
    assert list(table_of(path, field=field).labels) == ["x", "y"]


def test_a_field_is_proposed_where_rows_stand_under_one(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 1, "data": [{"text": "a", "label": "x"}]}))
    with pytest.raises(InputError, match=r"^stream\.field: .* did you mean 'data'\?"):
        table_of(path)
    with pytest.raises(InputError, match=r"^stream\.field: 'date' is .* did you mean 'data'\?"):
        table_of(path, field="date")


@pytest.mark.parametrize(("ending", "module"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_compressed_files_are_read(ending, module, tmp_path):
    for kind, content in (("csv", "text,label\na,007\n"), ("jsonl", '{"text":"a","label":"007"}')):
        path = tmp_path / f"rows.{kind}.{ending}"
        path.write_bytes(module.compress(content.encode()))
        assert list(table_of(path).labels) == ["007"]


def test_a_pattern_takes_several_files_as_one_split_and_names_the_file_of_a_row(tmp_path):
    (tmp_path / "b.csv").write_text("text,label\nc,007\n,7\n")
    (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
    with pytest.raises(InputError, match=r"row 2 of '.*b\.csv'"):
        table_of(tmp_path / "*.csv")
    assert list(table_of(tmp_path / "*.csv", empty="skip").labels) == ["x", "y", "007"]


@pytest.mark.parametrize(
    ("kind", "options", "key"),
    [
        ("jsonl", {"delimiter": ";"}, "delimiter"),
        ("jsonl", {"quote": ""}, "quote"),
        ("csv", {"field": "data"}, "field"),
        ("parquet", {"encoding": "latin-1"}, "encoding"),
        ("csv", {"revision": "main"}, "revision"),
        ("csv", {"background": "black"}, "background"),
    ],
)
def test_a_key_that_changes_nothing_is_refused(kind, options, key, tmp_path):
    path = tmp_path / f"rows.{kind}"
    rows = [{"text": "a", "label": "x"}]
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text('{"text": "a", "label": "x"}' if kind == "jsonl" else "text,label\na,x\n")
    with pytest.raises(InputError, match=rf"^stream\.{key}: "):
        table_of(path, **options)


# Labels go by name


def listed(names, labels, column="label", **more):
    features = {"text": datasets.Value("string"), column: datasets.ClassLabel(names=names)}
    features |= {each: datasets.Value("string") for each in more}
    texts = [f"{label} {number}" for number, label in enumerate(labels)]
    codes = [names.index(label) for label in labels]
    return datasets.Dataset.from_dict(
        {"text": texts, column: codes, **more}, features=datasets.Features(features)
    )


def test_every_file_has_class_labels_in_an_order_of_its_own(tmp_path):
    files = {
        "train-0.parquet": (["b", "a"], ["a", "b", "b"]),
        "train-1.parquet": (["a", "c", "b"], ["c", "b", "a"]),
        "test.parquet": (["c", "b", "a"], ["c", "a", "b"]),
    }
    for name, (names, labels) in files.items():
        listed(names, labels).to_parquet(str(tmp_path / name))
    table = table_of(tmp_path, test_split="test")
    assert [text.split()[0] for text in table.values] == list(table.labels)
    assert list(table.classes) == ["b", "a", "c"]


CARD = """---
dataset_info:
  features:
  - {name: text, dtype: string}
  - name: label
    dtype: {class_label: {names: {"0": "no", "1": "yes"}}}
---
"""


@pytest.mark.parametrize(("code", "message"), [("2", "label.* is 2 in row 2"), ("-1", "is hidden")])
def test_codes_of_csv_that_no_listed_class_has_are_refused(code, message, tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    path = tmp_path / "train.csv"
    path.write_text("text,label\na,0\nb,1\n")
    assert list(table_of(tmp_path).labels) == ["no", "yes"]
    path.write_text(f"text,label\na,0\nb,{code}\n")
    with pytest.raises(InputError, match=rf"^stream\.label_column: .*{message}"):
        table_of(tmp_path)


def test_a_card_that_does_not_parse_is_said_in_one_line(tmp_path):
    (tmp_path / "README.md").write_text("---\nconfigs:\n- data_files: [}\n---\n")
    (tmp_path / "train.csv").write_text("text,label\na,x\n")
    with pytest.raises(InputError, match=r"^stream\.path: .* cannot be read: ") as error:
        table_of(tmp_path)
    assert "\n" not in str(error.value)


def test_a_blank_path_is_refused():
    with pytest.raises(InputError, match=r"^stream\.path: '' is no path"):
        table_of("")


def test_tasks_go_by_name_too(tmp_path):
    for split, names in (("train", ["home", "work"]), ("test", ["work", "home"])):
        data = listed(names, ["home", "work"], "topic", label=["x", "x"])
        data.to_parquet(str(tmp_path / f"{split}.parquet"))
    table = table_of(tmp_path, test_split="test", task_column="topic", client_column="topic")
    assert list(table.groups) == ["home", "work", "home", "work"]
    assert [text.split()[0] for text in table.values] == list(table.owners["topic"])


def test_names_and_numbers_for_the_same_classes_are_refused(tmp_path):
    listed(["no", "yes"], ["no", "yes"]).to_parquet(str(tmp_path / "train.parquet"))
    other = pa.table({"text": ["a", "b"], "label": [0, 1]})
    parquet.write_table(other, tmp_path / "test.parquet")
    with pytest.raises(
        InputError, match=r"^stream\.test_split: 'test' has none of the labels of 'train': '0', '1'"
    ):
        table_of(tmp_path, test_split="test")


def test_numbers_that_are_names_match_numbers(tmp_path):
    listed(["7", "3"], ["7", "3"]).to_parquet(str(tmp_path / "train.parquet"))
    other = pa.table({"text": ["a", "b"], "label": [3, 7]})
    parquet.write_table(other, tmp_path / "test.parquet")
    assert list(table_of(tmp_path, test_split="test").labels) == ["7", "3", "3", "7"]


def test_what_a_split_lacks_is_blamed_on_the_right_classes_all_at_once(tmp_path):
    labels = [label for label in "abcd" for _ in range(4)]
    listed(list("dcba"), labels).to_parquet(str(tmp_path / "train.parquet"))
    listed(list("abcd"), ["a", "c"]).to_parquet(str(tmp_path / "test.parquet"))
    source = HuggingFace(path=str(tmp_path), text_column="text", test_split="test")
    with pytest.raises(InputError, match=r"^stream: class 'd' .* class 'b' .* 0 test") as error:
        build_stream(source, ScenarioSettings("class_incremental", num_tasks=2), seed=0)
    assert "'a'" not in str(error.value)
    assert "'c'" not in str(error.value)


def test_every_split_is_asked_for_its_columns(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,x\n")
    (tmp_path / "test.csv").write_text("text,lable\na,x\n")
    with pytest.raises(
        InputError, match=r"^stream\.label_column: 'label' .*'lable'\?.*test\.csv' \(split 'test'\)"
    ):
        table_of(tmp_path, test_split="test")

"""How a file is written is found out, so that it is read as it was meant."""

import codecs
import gzip
import json

import pytest

from lamina.registry import InputError
from lamina.streams.formats import detect_format
from lamina.streams.tables import Format, read_table
from tickets import tickets, write_tickets


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("latin-1", "cp1252"),
        ("cp1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
    ],
)
def test_a_table_is_read_as_it_was_written(encoding, said, delimiter, tmp_path):
    path = write_tickets(tmp_path / "t.csv", 200, encoding=encoding, delimiter=delimiter)
    written = detect_format(path)
    wanted = None if delimiter == "," else delimiter
    assert written.form == Format(delimiter=wanted, encoding=said)
    assert written.reasons.keys() == {
        *(["delimiter"] if wanted else []),
        *(["encoding"] if said != "utf-8" else []),
    }
    columns = read_table(path, ["team", "Ticket text"], written.form)
    rows = [row["team"] for row in tickets(200)]
    assert columns.texts["team"] == rows


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Принтер не работает в офисе, ошибка входа"),
        ("koi8_r", "Принтер не работает в офисе, ошибка входа"),
        ("cp1250", "Proszę o pomoc z drukarką, która nie działa, zażółć gęślą jaźń"),
        ("cp932", "プリンターが壊れました。助けてください"),
        ("gb18030", "打印机坏了请帮忙网络连接不上密码忘记了"),
        ("cp1252", "L'imprimante est bloquée à l'étage, merci de vérifier où ça coince"),
    ],
)
def test_encodings_of_other_alphabets_are_guessed(encoding, text, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("".join(f'"{text} {n}",a\n' for n in range(30)).encode(encoding))
    written = detect_format(path)
    assert written.form.encoding == encoding
    assert read_table(path, [f"{text} 0"], written.form).names == (f"{text} 0", "a")


def test_the_word_that_tells_an_encoding_is_shown(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('text,label\nok,a\n"die Störung dort",b\n'.encode("latin-1"))
    assert detect_format(path).reasons["encoding"] == (
        "not UTF-8 (line 3); read so, it says 'Störung' there"
    )


def test_delimiters_in_quoted_texts_do_not_mislead(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text;label\n" + "".join(f'"a, b, c; {n}, d";x\n' for n in range(9)))
    assert detect_format(path).form.delimiter == ";"
    path.write_text("text,label\n" + "".join(f'"a; b; c\n{n}; d",x\n' for n in range(9)))
    assert detect_format(path).form == Format()


def test_a_first_line_of_excel_says_the_delimiter_itself(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("sep=;\ntext;label\n" + "a, b;x\n" * 9)
    assert detect_format(path).form == Format()
    assert read_table(path, ["text"], Format()).names == ("text", "label")


def test_quotes_that_do_not_parse_mean_nothing(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("text\tlabel\n" + '"half a quote\tx\nan inch is 2"5\ty\n' * 5)
    written = detect_format(path)
    assert written.form == Format(quote="")
    assert len(read_table(path, ["text"], written.form).texts["text"]) == 10


def test_a_single_column_and_parquet_need_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text\nhello, there\n")
    assert detect_format(path).form == Format()
    assert detect_format(tmp_path / "not_read.parquet").form == Format()


def test_rows_within_a_document_are_found_in_compressed_files_too(tmp_path):
    path = tmp_path / "t.json.gz"
    document = {"meta": {"n": 2}, "data": {"items": [{"text": "ä", "label": "b"}] * 2}}
    with gzip.open(path, "wb") as file:
        file.write(codecs.BOM_UTF8 + json.dumps(document, ensure_ascii=False).encode())
    written = detect_format(path)
    assert written.form == Format(field="data.items")
    assert read_table(path, ["text"], written.form).texts["text"] == ["ä", "ä"]


def test_a_file_that_is_empty_or_damaged_is_refused(tmp_path):
    for name, content in (("t.csv", b" \n"), ("t.csv.gz", b"no gzip"), ("t.json", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"^DATA: '.*' (is empty|cannot be read)"):
            detect_format(tmp_path / name)

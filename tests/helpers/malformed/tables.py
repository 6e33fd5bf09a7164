"""Tables and images that cannot be read as they were meant. Each is written into an empty folder,
and gives the `stream` of a job over it."""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image

ROWS = [
    f"{phrase} {noun},{noun}"
    for noun in ("light", "door", "timer", "song")
    for phrase in ("turn on", "stop", "where is", "please", "show me", "I want")
]
SOUND = "text,label\n" + "\n".join(ROWS) + "\n"
"""A table that is read."""
Stream = dict[str, Any]


def table(content: str | bytes, name: str = "data.csv", **stream: Any) -> Callable[[Path], Stream]:
    """A file, and what a job says of it."""

    def make(folder: Path) -> Stream:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        asked = {"text_column": "text", "label_column": "label", **stream}
        return {"name": "huggingface", "path": str(path), **asked}

    return make


def parquet(damage: Callable[[bytes], bytes]) -> Callable[[Path], Stream]:
    def make(folder: Path) -> Stream:
        out = io.BytesIO()
        frame = pandas.DataFrame([row.split(",") for row in ROWS], columns=["text", "label"])
        frame.to_parquet(out)
        return table(damage(out.getvalue()), "data.parquet")(folder)

    return make


def zipped(folder: Path) -> Stream:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../data.csv", SOUND)
    return table(out.getvalue())(folder)


def bomb(folder: Path) -> Stream:
    """A thousand times larger once it is unpacked."""
    piece = gzip.compress(b"x" * 2**24)
    return table(piece * 8, "data.csv.gz")(folder)


def pictures(*spoilt: tuple[str, bytes], **stream: Any) -> Callable[[Path], Stream]:
    """A folder of images by class, with these files in it."""

    def make(folder: Path) -> Stream:
        random = np.random.default_rng(0)
        for label in ("ant", "bee", "cat", "dog"):
            (folder / label).mkdir()
            for number in range(6):
                values = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(values).save(folder / label / f"{number}.png")
        for name, content in spoilt:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return {"name": "huggingface", "path": str(folder), "image_column": "image", **stream}

    return make


def png(width: int = 8, height: int = 8) -> bytes:
    """An image of any size in a few bytes: what its header says need not follow."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    content = bytearray(out.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def json_rows(**more: Any) -> str:
    rows = [dict(zip(("text", "label"), row.split(","), strict=True)) | more for row in ROWS]
    return json.dumps(rows)


DEEP = "[" * 100_000 + "]" * 100_000

TABLES: dict[str, tuple[Callable[[Path], Stream], str]] = {
    "an empty file": (table(""), "stream.path: "),
    "a header without rows": (table("text,label\n"), "stream.path: "),
    "no such file": (table("x", path="missing.csv"), "stream.path: "),
    "a path with a NUL": (table("x", path="a\0b.csv"), "stream.path: "),
    "a path that is too long": (table("x", path="x" * 5000 + ".csv"), "too long"),
    "a folder without tables": (table("x", "notes.txt", path="."), "stream.path: "),
    "an unknown column": (table(SOUND, text_column="txet"), "did you mean 'text'?"),
    "an unknown label": (table(SOUND, label_column="lable"), "did you mean 'label'?"),
    "a column twice": (table(SOUND.replace("text,", "text,text,", 1)), "stream."),
    "a row that is too long": (table(SOUND + "a,b,c\n"), "stream.path: "),
    "a quote that does not end": (table(SOUND + '"never,ends\n'), "stream.quote"),
    "not UTF-8": (table(SOUND.encode() + b"caf\xe9,light\n"), "stream.encoding: "),
    "UTF-16 that is cut off": (table(SOUND.encode("utf-16")[:-1]), "stream.encoding: "),
    "another delimiter": (table(SOUND.replace(",", ";")), "stream.delimiter: "),
    "a zip archive": (zipped, "a zip archive"),
    "an Excel file": (table(b"PK\x03\x04" + b"\0" * 100), "a zip archive or an Excel file"),
    "a PDF": (table(b"%PDF-1.7\n" + b"\0" * 100), "a PDF file"),
    "a Parquet file under another name": (table(b"PAR1" + b"\0" * 100), "a Parquet file"),
    "a gzip file under another name": (table(gzip.compress(SOUND.encode())), "a gzip file"),
    "a gzip file that is cut off": (
        table(gzip.compress(SOUND.encode())[:-20], "data.csv.gz"),
        "stream.path: ",
    ),
    "a gzip file with a flipped bit": (
        table(gzip.compress(SOUND.encode())[:-8] + b"\0" * 8, "data.csv.gz"),
        "stream.path: ",
    ),
    "no gzip file": (table(SOUND, "data.csv.gz"), "stream.path: "),
    "a gzip bomb": (bomb, "stream.path: "),
    "no bz2 file": (table(SOUND, "data.csv.bz2"), "stream.path: "),
    "no xz file": (table(SOUND, "data.csv.xz"), "stream.path: "),
    "JSON that is cut off": (table(json_rows()[:-5], "data.json"), "stream."),
    "JSON of a number": (table("3", "data.json"), "stream."),
    "JSON of texts": (table('["a", "b"]', "data.json"), "stream."),
    "JSON rows of lists": (table("[[1, 2], [3, 4]]", "data.json"), "stream."),
    "a cell of JSON that is a mapping": (table(json_rows(text={"a": 1}), "data.json"), "stream."),
    "JSON that is nested a hundred thousand deep": (table(DEEP, "data.json"), "stream."),
    "JSON lines that are nested as deep": (table(DEEP + "\n", "data.jsonl"), "stream."),
    "a line that is no JSON": (table('{"text": "a", "label": "b"}\nno\n', "data.jsonl"), "stream."),
    "JSON with half a character": (
        table(json_rows(text="\ud800"), "data.json"),
        "stream.",
    ),
    "Parquet that is cut off": (parquet(lambda data: data[:-30]), "stream.path: "),
    "Parquet with a damaged footer": (
        parquet(lambda data: data[:-60] + b"\xff" * 52 + data[-8:]),
        "stream.path: ",
    ),
    "an empty Parquet file": (parquet(lambda data: b""), "stream.path: "),
    "Parquet with a footer of 2 GB": (
        parquet(lambda data: data[:-8] + (2**31 - 1).to_bytes(4, "little") + data[-4:]),
        "stream.path: ",
    ),
    "one class": (table("text,label\n" + "a b,c\n" * 30), "class"),
    "only empty texts": (table("text,label\n" + " ,a\n ,b\n" * 12), "stream"),
}
"""By name: what writes it, and a part of the line that is said."""

IMAGES: dict[str, tuple[Callable[[Path], Stream], str]] = {
    "an image that is none": (pictures(("ant/x.png", b"no image")), "stream.image_column: "),
    "an empty image": (pictures(("ant/x.png", b"")), "stream.image_column: "),
    "an image that is cut off": (
        pictures(("ant/x.png", png(8, 8)[:-30])),
        "stream.image_column: ",
    ),
    "an image of 10^9 pixels": (pictures(("ant/x.png", png(50_000, 20_000))), "pixels"),
    "an image of 10^18 pixels": (
        pictures(("ant/x.png", png(2**31 - 1, 2**31 - 1))),
        "stream.image_column: ",
    ),
    "an image that is text": (pictures(("ant/x.jpg", SOUND.encode())), "stream.image_column: "),
    "a drawing in SVG": (
        pictures(("ant/x.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
        "stream.image_column: ",
    ),
    "a TIFF whose tables point at themselves": (
        pictures(("ant/x.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0")),
        "stream.image_column: ",
    ),
    "an unknown column of images": (pictures(image_column="imgae"), "stream.image_column: "),
    "a colour that is none": (pictures(background="plad"), "stream.background: "),
}

"""Generated job files, tables, requests and damaged bytes: each is read, or refused in lines for a
person; nothing else ever happens. The examples are the same each time."""

import json
import string
from copy import deepcopy

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.config import check_words, parse_job
from lamina.config.words import read_job
from lamina.core import Task
from lamina.federation.privacy.wire import update_from_bytes, update_to_bytes
from lamina.federation.update import ClientUpdate
from lamina.orchestration.serving.question import RefusedError, read_question
from lamina.orchestration.serving.settings import ServingSettings
from lamina.registry import InputError
from lamina.streams.tables import Format, read_table
from lamina.training.checkpoint import pack, unpack


def examples(number):
    """So many, always the same, with nothing kept between runs and no clock."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


JOB = {
    "name": "small",
    "seed": 0,
    "stream": {"name": "assistant", "sentences_per_intent": 20},
    "scenario": {"kind": "class_incremental", "num_tasks": 3},
    "backbone": {"name": "minilm"},
    "adapter": {"kind": "lora", "rank": 4},
    "strategy": {"name": "er", "replay_size": 8},
    "memory": {"policy": "reservoir", "size": 30},
    "training": {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3},
    "sweep": {"variants": [{"strategy": {"name": "ewc"}}], "num_samples": 2},
    "hosts": {"count": 1},
    "tracking": {"enabled": False},
    "output_dir": "runs/small",
}
KEYS = [(key,) for key in JOB] + [
    (key, name) for key, section in JOB.items() if isinstance(section, dict) for name in section
]
WORDS = st.text(string.ascii_lowercase + "._-/\0é ", max_size=8)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    WORDS,
    st.sampled_from(["er", "lora", "nan", "1e-3", "no", "~", "<<", "2026-01-02", "*x", "&y", "!z"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(WORDS, st.sampled_from(["name", "kind", "epochs"])), inner),
    ),
    max_leaves=6,
)
CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), WORDS, VALUES), min_size=1, max_size=3)


def changed(changes):
    """The job with other values, and some under names that it does not have."""
    job = deepcopy(JOB)
    for (section, *name), other, value in changes:
        if not name:
            job[section] = value
        elif isinstance(job[section], dict):
            job[section][other if other and len(other) < 4 else name[0]] = value
    return job


def tried(read):
    """What is read, and an empty list; or None, and the lines that are said."""
    try:
        return read(), []
    except InputError as error:
        lines = getattr(error, "problems", [str(error)])
        return None, lines
    except RefusedError as error:
        return None, [error.message]


@examples(80)
@given(changes=CHANGES)
def test_a_job_is_read_or_refused_in_lines_that_name_keys(tmp_path, changes):
    job = changed(changes)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    lines = tried(lambda: check_words(path))[1] or tried(lambda: parse_job(read_job(path)))[1]
    for line in lines:
        assert "\n" not in line
        assert ":" in line


@examples(80)
@given(text=st.text("{}[]:,-#&*!|>'\"%@`~?<=. \n\tab01é", max_size=60))
def test_a_text_is_yaml_or_refused_with_its_place(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    _, lines = tried(lambda: check_words(path))
    assert lines
    assert all(line.strip() for line in lines)


CELLS = st.text('ab ,;"\n\t\0é\u200b=|', max_size=6)


@examples(100)
@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=5),
    header=st.sampled_from(["text,label", "text;label", '"text","label"', "sep=;\ntext;label", ""]),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]),
    delimiter=st.sampled_from([None, ",", ";"]),
)
def test_a_table_is_read_or_refused_in_a_line(tmp_path, rows, header, encoding, delimiter):
    path = tmp_path / "data.csv"
    lines = [header, *(",".join(row) for row in rows)]
    path.write_bytes("\n".join(lines).encode(encoding))
    check_table(path, Format(delimiter=delimiter))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["text", "label", "a"]), inner)
    ),
    max_leaves=8,
)


@examples(50)
@given(value=JSON)
def test_a_table_of_json_is_read_or_refused_in_a_line(tmp_path, value):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    check_table(path, Format())


def check_table(path, form):
    columns, lines = tried(lambda: read_table(path, ["text", "label"], form))
    for line in lines:
        assert line.startswith("stream.")
        assert "\n" not in line
    if columns is not None:
        assert all(len(cells) == columns.num_rows for cells in columns.texts.values())


KEYS_OF_A_REQUEST = ("inputs", "bundle", "top_k", "task", "other")


class Facts:
    """What a request is checked against."""

    trial = "ncm-0"
    class_names = ("door", "light")
    modality = "text"
    answers = "classes"

    def told(self, name, key) -> Task | None:
        return None


@examples(80)
@given(
    body=st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(KEYS_OF_A_REQUEST, JSON),
            "inputs": st.one_of(JSON, st.lists(st.text(max_size=4), max_size=3)),
        },
    )
)
def test_a_request_is_a_question_or_refused_with_its_key(body):
    content = json.dumps(body).encode()
    question, lines = tried(lambda: read_question(content, {"one": Facts()}, ServingSettings()))
    for line in lines:
        assert line.partition(":")[0].partition("[")[0] in (*KEYS_OF_A_REQUEST, "body")
    if question is not None:
        assert question.values
        assert all(isinstance(value, str) for value in question.values)


SOUND = {
    "checkpoint": (pack({"a": torch.arange(6.0), "b": [1, "x", None]}), unpack),
    "update": (
        update_to_bytes(ClientUpdate("c", 0, {"a": torch.ones(3)}, 2, "both", "base")),
        update_from_bytes,
    ),
}


@pytest.mark.parametrize("kind", SOUND)
@examples(80)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_something_of_the_same_kind(kind, data):
    content, read = SOUND[kind]
    spoilt = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(spoilt)))
    found, lines = tried(lambda: read(bytes(spoilt[: cut or None])))
    assert not any("\n" in line for line in lines)
    assert isinstance(found, dict | list | ClientUpdate | str | int | float | None)

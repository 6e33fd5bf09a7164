"""YAML as people mean it, and overrides."""

import pytest

from lamina.config.reading import read_job_file, read_overrides, read_yaml
from lamina.registry import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("2.0e-3", 0.002),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("7", 7),
        ("-7", -7),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-01-02", "2026-01-02"),
        ("12:30", "12:30"),
        ("010", 10),
        ("1_000", 1000),
        ("'1e-3'", "1e-3"),
        ("e3", "e3"),
        ("[1, {a: 2}]", [1, {"a": 2}]),
    ],
)
def test_plain_words_and_numbers_are_what_a_person_means(text, value):
    read = read_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


def test_a_syntax_error_names_file_line_and_column(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: x\nstream: {name: digits\nseed: 1\n")
    with pytest.raises(InputError, match=r"job\.yaml, line 3, column \d+: not YAML") as error:
        read_job_file(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_key_given_twice_is_an_error_with_its_line():
    with pytest.raises(InputError, match=r"line 2, column 1: not YAML .*'seed' is given twice"):
        read_yaml("seed: 1\nseed: 2\n", "job.yaml")


def test_anchors_and_merges_still_work():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}"
    assert read_yaml(text, "here")["b"] == {"x": 1, "y": 3}


def test_yaml_builds_no_python_objects():
    with pytest.raises(InputError, match=r"line 1, column 1: the tag !!python.* is not allowed"):
        read_yaml("!!python/object/apply:os.getcwd []", "here")


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    (tmp_path / "quickstart.yaml").touch()
    with pytest.raises(InputError, match=r"did you mean '.*quickstart\.yaml'"):
        read_job_file(tmp_path / "quikstart.yaml")


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"text", b"\xff\xfe", b"a: b: c"])
def test_a_file_that_is_no_mapping_is_one_clear_line(tmp_path, content):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"job\.yaml") as error:
        read_job_file(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_is_no_job(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_job_file(tmp_path)


def test_override_values_are_yaml_and_the_last_one_counts():
    overrides = ["seed=1", "adapter=null", "adapter.targets=[query, key]", "seed=2", "name=a=b"]
    assert read_overrides(overrides) == {
        "seed": 2,
        "adapter": None,
        "adapter.targets": ["query", "key"],
        "name": "a=b",
    }


@pytest.mark.parametrize("override", ["seed", "=3", "training.epochs: 2"])
def test_a_word_that_is_no_override_says_what_one_is(override):
    with pytest.raises(InputError, match=r"override: .* is not KEY=VALUE .*strategy\.name=er"):
        read_overrides([override])


def test_an_override_with_broken_yaml_is_named():
    with pytest.raises(InputError, match=r"override 'adapter=\{kind', line 1"):
        read_overrides(["adapter={kind"])

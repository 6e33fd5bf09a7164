"""Jobs that nobody can mean: each is one line that names the key, or line and column, with what was
given and what is allowed; the exit code is 2, and nothing is written."""

import os

import pytest

from malformed.jobs import TEXTS, VALUES


@pytest.fixture
def refused(lamina, tmp_path):
    """The one line that is said of a job; nothing may be left behind."""

    def line_of(*words):
        before = sorted(tmp_path.rglob("*"))
        result = lamina(*words)
        assert result.exit_code == 2, (result.output, result.exception)
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return line_of


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_no_job_is_one_line(refused, tmp_path, name):
    text, said = TEXTS[name]
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert said in refused("run", path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00n", b"name: \xe9", b"\x80"])
def test_a_file_that_is_no_utf_8_is_one_line(refused, tmp_path, content):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    assert "is not UTF-8 text (allowed: a YAML file)" in refused("run", path)


@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize(("word", "said"), VALUES)
def test_a_value_that_no_setting_can_be_is_one_line(refused, job, command, word, said):
    assert said in refused(command, job, word)


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_an_output_folder_that_is_a_file_is_one_line(refused, job, tmp_path, command):
    (tmp_path / "out").write_text("mine")
    for word in ("name=x", f"output_dir={tmp_path / 'out' / 'below'}"):
        line = refused(command, job, word)
        assert line == f"output_dir: '{tmp_path / 'out'}' is a file (allowed: a folder)"
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_an_output_folder_that_cannot_be_written_to_is_one_line(refused, job, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    assert "cannot be written to (allowed: a folder)" in refused("run", job)


def test_what_a_terminal_would_obey_is_shown_as_an_escape(refused, job, tmp_path):
    path = tmp_path / "more.yaml"
    path.write_text('"tr\\e[31m\\ud800aining": 1\n')
    assert refused("run", job, path).startswith("tr\\x1b[31m\\ud800aining: unknown key")

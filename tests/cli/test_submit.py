"""`lamina submit`: what is refused before anything is sent."""

import pytest
from click.testing import CliRunner

from lamina.cli import main
from lamina.cli.submit import _check_paths, _command_of, _folder_of
from lamina.config import load_job
from lamina.orchestration.submission import Submission, _Log, checked
from lamina.registry import InputError
from small_job import write


def test_results_that_would_be_lost_and_data_that_is_only_here_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path)
    _check_paths(load_job(path))
    with pytest.raises(InputError, match=r"output_dir: 'out' is not on the cluster's disk"):
        _check_paths(load_job(path, ["output_dir=out"]))
    monkeypatch.chdir(tmp_path)
    here = load_job(path, ["stream.path=data.csv"])
    with pytest.raises(InputError, match=r"stream\.path: 'data\.csv' is of this machine"):
        _check_paths(here)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:9", "no Ray cluster answers at 'http://127.0.0.1:9'"),
        ("ray://127.0.0.1:10001", "not the address of a cluster's dashboard"),
        ("http://me:secret@127.0.0.1:8265", "holds a name or a password"),
        ("http://127.0.0.1:99999", "has no port"),
        ("http://", "not the address of a cluster's dashboard"),
    ],
)
def test_an_address_where_no_job_can_go_is_one_line_without_its_password(address, said):
    with pytest.raises(InputError, match=said) as refused:
        checked(address)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("words", [["trials"], ["stop", "er"], ["pause", "er"], ["fork", "er"]])
def test_a_sweep_elsewhere_is_asked_by_the_address_of_its_cluster(words):
    command, *trial = words
    done = CliRunner().invoke(main, [command, "/data/run", *trial, "--address", "127.0.0.1:9"])
    assert done.exit_code == 2
    assert "--address: no Ray cluster answers" in done.stderr


def test_files_are_sent_by_their_names_and_two_of_one_name_refused(tmp_path):
    path = write(tmp_path)
    folder = _folder_of([path])
    assert [each.name for each in folder.iterdir()] == [path.name]
    other = tmp_path / "other" / path.name
    other.parent.mkdir()
    other.write_text("seed: 1")
    with pytest.raises(InputError, match="two of its files have the same name"):
        _folder_of([path, other])


def test_a_job_without_a_sweep_is_trained_on_a_host_and_not_on_the_head(tmp_path):
    assert _command_of(load_job(write(tmp_path))) == "sweep"


def test_words_reach_the_shell_of_the_cluster_as_they_were_given():
    submission = Submission(("sweep", "job.yaml", "sweep.variants=[{a: b}]"))
    assert submission.entrypoint.endswith("sweep job.yaml 'sweep.variants=[{a: b}]'")
    assert "working_dir" not in submission.runtime_env


def test_a_log_is_written_once_though_it_is_read_again_and_without_rays_own_lines():
    written = []
    log = _Log(written.append)
    log.add("12:00 INFO -- Runtime env is set up.\n12:00 INFO -- Running entrypoint for ")
    log.add("job raysubmit_1: python -m lamina.cli trials\nfirst\nsec")
    log.rewind()
    log.add("12:00 INFO -- Running entrypoint for job raysubmit_1: python\nfirst\nsecond\n")
    assert "".join(written) == "first\nsecond\n"

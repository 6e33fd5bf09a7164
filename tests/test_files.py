"""Files that are whole or not there, and folders that one process holds at a time."""

import errno
import os
import subprocess
import sys

import pytest

from lamina.files import disk_fault, held, replacing, replacing_folder, write_file, write_json
from lamina.registry import InputError

HOLDER = """
import sys
from pathlib import Path
from lamina.files import held
with held(Path(sys.argv[1]), "output_dir", "'it'"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(tmp_path, disk_order):
    write_json(tmp_path / "a.json", {"é": 1}, indent=None)
    assert disk_order == [14, "moved", "names"]
    assert (tmp_path / "a.json").read_text() == '{"\\u00e9": 1}\n'


def test_what_breaks_off_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    write_file(tmp_path / "a", "before")

    def write():
        with replacing(tmp_path / "a") as unfinished:
            unfinished.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_what_breaks_off_leaves_the_folder_as_it_was_and_nothing_beside_it(tmp_path):
    for name in ("one", "two"):
        with replacing_folder(tmp_path / "a") as unfinished:
            (unfinished / name).write_text(name)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["two"]

    def write():
        with replacing_folder(tmp_path / "a") as unfinished:
            (unfinished / "three").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["two"]


def test_what_another_process_holds_is_refused_at_once_and_free_when_that_is_killed(tmp_path):
    lock = tmp_path / "new" / "lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    environment = {**os.environ, "PYTHONPATH": "platform"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match="output_dir: 'it' is in use by another command"),
            held(lock, "output_dir", "'it'"),
        ):
            pass
        other.kill()
    for _ in range(2):
        with held(lock, "output_dir", "'it'"):
            assert lock.exists()


def test_only_what_is_the_disks_fault_is_said_to_be():
    full = OSError(errno.ENOSPC, "No space left on device", "a/b")
    assert disk_fault(full) == "'a/b': no room is left on the disk (No space left on device)"
    assert disk_fault(ConnectionRefusedError(errno.ECONNREFUSED, "refused")) is None
    assert disk_fault(FileNotFoundError(errno.ENOENT, "No such file", "a")) is None
    assert disk_fault(OSError("something")) is None

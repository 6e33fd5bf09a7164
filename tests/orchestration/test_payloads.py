"""Files that are named by their content: brought to the disk, and refused when they are damaged."""

import pytest

from lamina.orchestration.payloads import Payloads
from lamina.registry import InputError

CONTENT = b"the bytes of a checkpoint" * 100
DAMAGE = {
    "empty": b"",
    "torn": CONTENT[:1000],
    "longer": CONTENT + b"\0",
    "one bit flipped": bytes([CONTENT[0] ^ 1]) + CONTENT[1:],
    "something else": b"x" * len(CONTENT),
}


@pytest.fixture
def payloads(tmp_path):
    return Payloads(tmp_path)


@pytest.fixture
def digest(payloads):
    return payloads.put(CONTENT)


def path_of(tmp_path, digest):
    return tmp_path / f"{digest}.safetensors"


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_payload_is_refused_in_one_line_and_written_again_by_put(
    payloads, digest, tmp_path, kind
):
    path = path_of(tmp_path, digest)
    path.write_bytes(DAMAGE[kind])
    with pytest.raises(InputError, match="is damaged") as refused:
        payloads.get(digest)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert payloads.put(CONTENT) == digest
    assert payloads.get(digest) == CONTENT


def test_a_missing_payload_is_refused_in_one_line(payloads, digest, tmp_path):
    path_of(tmp_path, digest).unlink()
    with pytest.raises(InputError, match=f"{digest}.* is missing"):
        payloads.get(digest)


def test_what_is_there_already_is_not_written_again(payloads, digest, tmp_path):
    before = path_of(tmp_path, digest).stat()
    assert payloads.put_all([CONTENT, b"more"]) == [digest, payloads.put(b"more")]
    after = path_of(tmp_path, digest).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_content_is_on_the_disk_before_its_name_and_the_name_before_put_returns(
    payloads, disk_order
):
    payloads.put_all([CONTENT, b"more"])
    assert disk_order == [len(CONTENT), "moved", 4, "moved", "names"]

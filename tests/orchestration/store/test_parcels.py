"""Bytes on their way to the store."""

import os

from lamina.orchestration.store.parcels import LARGE, packed, unpacked
from watched import RAY

pytestmark = RAY


def test_what_is_large_travels_beside_the_call_and_arrives_as_it_was(ray_cluster):
    contents = {"small": b"little", "large": os.urandom(2 * LARGE), "empty": b""}
    sent = packed(contents)
    assert isinstance(sent["small"], bytes)
    assert isinstance(sent["large"], list), "a bare reference would be fetched before the call"
    assert {name: bytes(each) for name, each in unpacked(sent).items()} == contents

"""Which Ray a sweep runs on."""

import socket

import pytest

from lamina.orchestration.cluster import check_address
from lamina.registry import InputError


def test_a_cluster_that_does_not_answer_is_an_error_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"RAY_ADDRESS: no Ray cluster answers at '{address}'"):
            check_address(address)


def test_a_cluster_that_answers_may_be_joined():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_ray_client_address_is_refused():
    with pytest.raises(InputError, match="is for Ray's client"):
        check_address("ray://127.0.0.1:10001")

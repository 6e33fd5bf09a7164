"""What a worker answers, on its way from a host to the driver."""

import pickle

import pytest
import torch

from lamina.federation.checking import Slot
from lamina.orchestration.federated.chunks import ItemResult

ANSWERS = [
    ItemResult(update=b"u" * 70_000, client_state=b"o" * 80_000),
    ItemResult(boundary=b"t" * 90_000),
    ItemResult(flags={"test": torch.tensor([True, False])}),
    ItemResult(declared={"count": Slot((2,), torch.float32)}),
]


@pytest.mark.parametrize("beside", [True, False])
def test_an_answer_arrives_as_it_left_whether_its_bytes_travel_beside_it_or_not(beside):
    for answer in ANSWERS:
        buffers = []
        sent = pickle.dumps(answer, 5, buffer_callback=buffers.append if beside else None)
        arrived = pickle.loads(sent, buffers=[each.raw() for each in buffers])
        for name in ("update", "client_state", "boundary"):
            assert getattr(arrived, name) == getattr(answer, name)
            assert isinstance(getattr(arrived, name), bytes | None)
        assert arrived.flags.keys() == answer.flags.keys()
        assert arrived.declared == answer.declared


def test_the_bytes_of_an_answer_are_not_copied_into_its_pickle():
    buffers = []
    assert len(pickle.dumps(ANSWERS[0], 5, buffer_callback=buffers.append)) < 1_000
    assert sum(each.raw().nbytes for each in buffers) == 150_000

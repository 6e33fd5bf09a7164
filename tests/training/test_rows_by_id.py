import pytest
import torch

from lamina.core import Batch, Experience, Stream, Task
from lamina.training.rows_by_id import RowsById


def experience(index, ids):
    ids = torch.tensor(ids)
    width = 2 + index
    inputs = {
        "input_ids": ids[:, None].repeat(1, width),
        "attention_mask": torch.ones(len(ids), width, dtype=torch.int64),
    }
    batch = Batch(inputs, ids % 7, ids)
    return Experience(Task(index, f"task {index}", (0,)), batch, batch, batch)


@pytest.fixture
def rows():
    experiences = (experience(0, [5, 3, 9]), experience(1, [2, 8]), experience(2, [1, 7, 4, 6]))
    return RowsById(Stream("test", "class_incremental", "text", ("a",), experiences))


def test_rows_of_several_tasks_come_back_in_the_order_asked_for(rows):
    batch = rows(torch.tensor([4, 9, 2, 5, 1]))
    assert batch.ids.tolist() == [4, 9, 2, 5, 1]
    assert batch.labels.tolist() == [4, 2, 2, 5, 1]
    assert batch.inputs["input_ids"][:, 0].tolist() == [4, 9, 2, 5, 1]
    assert batch.inputs["attention_mask"].sum(1).tolist() == [4, 2, 3, 2, 4]


def test_an_id_that_is_not_in_the_stream_is_an_error(rows):
    with pytest.raises(KeyError, match="no training row with id 100"):
        rows(torch.tensor([4, 100]))

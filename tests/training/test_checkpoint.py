import pytest
import torch
from safetensors.torch import load

from lamina.registry import InputError
from lamina.training.checkpoint import pack, unpack


def test_nested_tensors_and_plain_values_survive_to_the_last_bit():
    state = {
        "tensor": torch.randn(3, 4, dtype=torch.float64),
        "empty": torch.empty(0, dtype=torch.int64),
        "nested": [{"half": torch.randn(2).bfloat16()}, 1, 0.1, "text", True, None],
        "": {},
    }
    back = unpack(pack(state))
    assert torch.equal(back["tensor"], state["tensor"])
    assert back["tensor"].dtype == torch.float64
    assert back["empty"].shape == (0,)
    assert torch.equal(back["nested"][0]["half"], state["nested"][0]["half"])
    assert back["nested"][1:] == [1, 0.1, "text", True, None]
    assert back[""] == {}


def test_two_names_of_one_tensor_do_not_break_it():
    tensor = torch.arange(4)
    back = unpack(pack({"a": tensor, "b": tensor[1:]}))
    assert back["a"].tolist() == [0, 1, 2, 3]
    assert back["b"].tolist() == [1, 2, 3]


def test_a_tensor_is_named_by_where_it_is():
    state = {"model": {"a": torch.ones(1)}, "list": [torch.ones(1)], "structure": torch.ones(1)}
    assert {"model/a", "list/0"} < set(load(pack(state)))
    assert unpack(pack(state))["structure"].tolist() == [1.0]


def test_keys_with_slashes_do_not_take_each_other_for_another():
    back = unpack(pack({"a": {"b": torch.zeros(1)}, "a/b": torch.ones(1)}))
    assert back["a"]["b"].tolist() == [0.0]
    assert back["a/b"].tolist() == [1.0]


def test_anything_else_is_refused_when_packed():
    with pytest.raises(TypeError, match="not set"):
        pack({"a": {1, 2}})
    with pytest.raises(TypeError, match="keys are strings"):
        pack({1: 2})


def test_bytes_that_are_no_checkpoint_are_refused():
    with pytest.raises(InputError, match="not a checkpoint"):
        unpack(b"rubbish that is long enough to have a header")
    with pytest.raises(InputError, match="not a checkpoint"):
        unpack(pack({"a": torch.ones(100)})[:-50])

"""What was measured on a machine once is kept."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lamina.training.measured import machine, measured

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path))
    return tmp_path / "measured"


def test_the_same_is_measured_once_and_something_else_anew():
    asked = []

    def measure(value):
        return lambda: asked.append(value) or value

    assert measured({"of": "a"}, measure(1.5), CPU) == 1.5
    assert measured({"of": "a"}, measure(2.5), CPU) == 1.5
    assert measured({"of": "b"}, measure(3.5), CPU) == 3.5
    assert asked == [1.5, 3.5]


def test_another_number_of_threads_is_another_machine():
    threads = torch.get_num_threads()
    try:
        measured({"of": "a"}, lambda: 1, CPU)
        torch.set_num_threads(threads + 1)
        assert measured({"of": "a"}, lambda: 2, CPU) == 2
    finally:
        torch.set_num_threads(threads)


def test_a_file_says_what_was_measured_and_where(cache):
    measured({"of": "a"}, lambda: [1.0], CPU)
    (path,) = cache.glob("*.json")
    found = json.loads(Path(path).read_text())
    assert found == {"key": {"machine": machine(CPU), "of": "a"}, "result": [1.0]}


def test_a_measurement_that_failed_leaves_nothing(cache):
    with pytest.raises(ZeroDivisionError):
        measured({"of": "a"}, lambda: 1 / 0, CPU)
    assert measured({"of": "a"}, lambda: 7, CPU) == 7


def test_those_who_ask_at_once_agree():
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(measured, {"of": "all"}, lambda number=number: number, CPU)
            for number in range(4)
        ]
        assert len({each.result() for each in asked}) == 1


@pytest.mark.parametrize("content", ["", '{"key": 1', "[]", "null"])
def test_a_damaged_file_is_measured_again(cache, content):
    assert measured({"of": "a"}, lambda: 1.5, CPU) == 1.5
    (path,) = cache.glob("*.json")
    path.write_text(content)
    assert measured({"of": "a"}, lambda: 2.5, CPU) == 2.5
    assert json.loads(path.read_text())["result"] == 2.5

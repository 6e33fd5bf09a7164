"""A federated run's files: damaged ones are left out and said, and no wrong byte is used."""

from hashlib import sha256

import pytest

from lamina.federation.server.server_state import FORMAT
from lamina.orchestration.federated.round_store import RoundStore
from lamina.registry import InputError
from lamina.training.checkpoint import pack

DAMAGE = {
    "one bit flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a bit flipped at the end": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "torn": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


class Server:
    """Stands for a server's state after so many works: a client, and a shared model."""

    def __init__(self, store, num_done, num_boundaries=0):
        self.client = store.put(f"client {num_done}".encode())
        self.num_done = num_done
        self.num_boundaries = num_boundaries

    def state_dict(self):
        return {
            "format": FORMAT,
            "num_done": self.num_done,
            "num_boundaries": self.num_boundaries,
            "client_states": {"0": self.client},
            "shared_model": {"number": self.num_boundaries} if self.num_boundaries else None,
        }


@pytest.fixture
def kept(tmp_path):
    """A folder in which four states were kept."""
    store, last = RoundStore(tmp_path, "config"), None
    for number in range(1, 5):
        server = Server(store, number, num_boundaries=number // 2)
        store.replaced(last)
        last = server.client
        store.keep(server)
    return tmp_path


def opened(folder):
    store = RoundStore(folder, "config")
    state = store.latest()
    return state and state["num_done"], store


def round_file(folder, number):
    (path,) = (folder / "rounds").glob(f"{number:06d}-*.safetensors")
    return path


def test_the_last_two_states_are_kept_with_what_they_name_and_no_more(kept):
    assert opened(kept)[0] == 4
    assert len(list((kept / "rounds").iterdir())) == 2
    assert {path.stem for path in (kept / "clients").iterdir()} <= {
        sha256(f"client {number}".encode()).hexdigest() for number in (3, 4)
    }
    assert len(list((kept / "shared_models").iterdir())) == 2


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_state_is_left_out_for_the_one_before_in_one_line_that_names_it(kept, kind):
    path = round_file(kept, 4)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    number, store = opened(kept)
    assert number == 3
    (line,) = store.damaged
    assert line.startswith(f"rounds/{path.name} is damaged")
    assert "\n" not in line
    store.keep(Server(store, 4, num_boundaries=2))
    assert opened(kept)[0] == 4


@pytest.mark.parametrize("folder", ["clients", "shared_models"])
def test_a_state_is_left_out_too_where_a_file_that_it_names_is_damaged(kept, folder):
    (named,) = [
        path
        for path in (kept / folder).iterdir()
        if any(words in path.read_bytes() for words in (b"client 4", b'"number": 2'))
    ]
    named.write_bytes(named.read_bytes()[:-3])
    number, store = opened(kept)
    (line,) = store.damaged
    assert str(named) in line
    assert round_file(kept, 4).name in line
    assert (number, opened(kept)[0]) == (3, 3)


def test_where_none_is_whole_the_run_is_refused_and_nothing_begins_again(kept):
    for number in (3, 4):
        round_file(kept, number).write_bytes(b"")
    with pytest.raises(InputError, match=r"no state of the run in .* is whole") as refused:
        opened(kept)
    assert round_file(kept, 3).name in str(refused.value)


def test_a_state_of_the_format_without_digests_is_refused_by_its_number(tmp_path):
    store = RoundStore(tmp_path, "config")
    older = {"config": "config", "state": {"format": 3, "num_done": 3, "client_states": {}}}
    (tmp_path / "rounds" / "000003.safetensors").write_bytes(pack(older))
    with pytest.raises(InputError, match=rf"in format 3, .* reads format {FORMAT} "):
        store.latest()


@pytest.mark.parametrize("content", ["", "[1, ", "\x00"])
def test_damaged_bounds_are_trained_again(tmp_path, content):
    store = RoundStore(tmp_path, "config")
    (tmp_path / "rounds" / "bounds.json").write_text(content)
    assert store.bounds() is None
    store.keep_bounds([{"rows": {}}])
    assert store.bounds() == [{"rows": {}}]

"""The store's file: its version, its damage, and who hears of a change."""

import sqlite3

import pytest

from lamina.orchestration.store.ledger import VERSION, Ledger
from lamina.orchestration.store.shared_store import SharedStore
from lamina.orchestration.sweep.terminal import read_ledger
from lamina.registry import InputError
from watched import report_of

JOB = {"seed": 0, "strategy": {"name": "er"}}


@pytest.fixture
def left(tmp_path):
    """The output folder of a sweep that has ended."""
    store = SharedStore(tmp_path / "store", "one")
    for number in range(40):
        store.submit(f"trial {number}", "a", {**JOB, "text": "long " * 200})
    store.claim("h0", "x")
    store.report("trial 0", "h0", report_of(0), {"rest": b"bytes"})
    store.close()
    return tmp_path


def opened(folder):
    return SharedStore(folder / "store", "two")


def both_refuse(folder, said):
    """A new sweep, and `lamina trials`; in one line that names the folder."""
    for read in (opened, read_ledger):
        with pytest.raises(InputError, match=said) as refused:
            read(folder)
        assert str(folder) in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("version", [0, VERSION - 1, VERSION + 1])
def test_a_ledger_of_another_version_is_refused(left, version):
    with sqlite3.connect(left / "store" / "ledger.sqlite") as database:
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    both_refuse(left, f"the format {version} of another version")


def test_the_ledger_of_the_version_without_a_number_is_refused(tmp_path):
    (tmp_path / "store").mkdir()
    with sqlite3.connect(tmp_path / "store" / "ledger.sqlite") as database:
        database.execute("CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    database.close()
    both_refuse(tmp_path, "the format 0 of another version")


@pytest.mark.parametrize(
    ("at", "content"), [(0, b"no database at all"), (4096, b"\xff" * 4096), (4100, b"\x07" * 900)]
)
def test_a_damaged_ledger_is_refused(left, at, content):
    with (left / "store" / "ledger.sqlite").open("r+b") as file:
        file.seek(at)
        file.write(content)
    both_refuse(left, "ledger.sqlite in .* is damaged")


def test_a_torn_ledger_is_refused(left):
    with (left / "store" / "ledger.sqlite").open("r+b") as file:
        file.truncate(10_000)
    both_refuse(left, "ledger.sqlite in .* is damaged")


def test_an_empty_ledger_beside_payloads_is_refused_and_one_alone_is_a_new_sweep(left, tmp_path):
    (left / "store" / "ledger.sqlite").write_bytes(b"")
    with pytest.raises(InputError, match="is damaged: the file is empty"):
        opened(left)
    new = tmp_path / "new"
    (new / "store").mkdir(parents=True)
    (new / "store" / "ledger.sqlite").write_bytes(b"")
    store = opened(new)
    assert store.trials() == []
    store.close()


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite", tmp_path, 1.0)
    ledger.woken = []
    ledger.on_change = lambda: ledger.woken.append(ledger.last_event())
    yield ledger
    ledger.close()


def test_a_transaction_wakes_once_after_it_is_committed(ledger):
    with ledger.transaction():
        ledger.add_event("first")
        with ledger.transaction():
            ledger.add_event("second")
        assert ledger.woken == []
    assert ledger.woken == [2]


def test_a_transaction_that_fails_changes_nothing_and_wakes_nobody(ledger):
    def change():
        with ledger.transaction():
            ledger.add_event("first")
            with ledger.transaction():
                raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        change()
    assert (ledger.last_event(), ledger.woken) == (0, [])


def test_a_transaction_that_changes_nothing_wakes_nobody(ledger):
    with ledger.transaction():
        assert ledger.change("UPDATE trials SET deaths = 1") == 0
    assert ledger.woken == []

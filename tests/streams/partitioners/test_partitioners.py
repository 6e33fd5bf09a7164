"""Every row at one client, by each law, and the laws' limit cases."""

import numpy as np
import pytest

from lamina.core import PARTS
from lamina.registry import InputError
from lamina.streams import build_stream, source_class
from lamina.streams.partitioners import partition, partitioner_class, partitioner_names
from lamina.streams.rows import fingerprint_of, rows_of
from lamina.streams.scenario import ScenarioSettings
from tables import ids_of, stream_of, table_of

TABLE = table_of()
STREAM = stream_of(TABLE)
ROWS = rows_of(STREAM, TABLE)
TRAINING = ROWS.parts == 0
KINDS = {
    "iid": {},
    "dirichlet": {"alpha": 0.5},
    "pathological": {"classes": 2},
    "quantity": {"law": "dirichlet"},
    "shard": {"shards": 2},
    "natural": {"by": "user"},
    "domain": {"by": "group"},
}


def clients_of(kind, num_clients=5, seed=0, rows=ROWS, **settings):
    return partition(partitioner_class(kind)(**settings), rows, num_clients, seed)


def table_by_label(rows, client, num_clients):
    """Training rows of each class at each client, [classes, clients]."""
    counts = np.zeros((rows.labels.max() + 1, num_clients), dtype=int)
    train = rows.parts == 0
    np.add.at(counts, (rows.labels[train], client[train]), 1)
    return counts


@pytest.fixture(scope="module")
def digits():
    scenario = ScenarioSettings(kind="class_incremental")
    return rows_of(build_stream(source_class("digits")(), scenario, seed=0))


def test_every_kind_is_tried_here():
    assert sorted(KINDS) == partitioner_names()


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_goes_to_exactly_one_client(kind):
    found = clients_of(kind, **KINDS[kind])
    places = np.concatenate([found.rows(client) for client in range(5)])
    assert sorted(ROWS.ids[places].tolist()) == ids_of(STREAM)
    assert len(found.names) == len(set(found.names)) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_clients(kind):
    first, again = (clients_of(kind, **KINDS[kind]).client for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"natural"}))
def test_another_seed_gives_others(kind):
    first = clients_of(kind, seed=0, **KINDS[kind]).client
    assert (first != clients_of(kind, seed=1, **KINDS[kind]).client).any()


def test_another_data_set_gives_others_with_the_same_seed():
    other = rows_of(stream_of(table_of(rows_per_class=41)))
    assert fingerprint_of(STREAM) == ROWS.fingerprint != other.fingerprint
    same_ids = np.isin(other.ids, ROWS.ids)
    assert (clients_of("iid").client != clients_of("iid", rows=other).client[same_ids]).any()


def test_iid_sizes_of_every_task_and_part_differ_by_one_at_most():
    client = clients_of("iid", num_clients=7).client
    for task in range(3):
        for part in range(3):
            here = (ROWS.tasks == task) & (ROWS.parts == part)
            sizes = np.bincount(client[here], minlength=7)
            assert sizes.max() - sizes.min() <= 1


def test_a_large_alpha_is_nearly_even(digits):
    client = clients_of("dirichlet", rows=digits, alpha=1e6).client
    counts = table_by_label(digits, client, 5)
    even = counts.sum(axis=1, keepdims=True) / 5
    assert np.abs(counts - even).max() <= 2


def test_alpha_near_zero_gives_each_class_one_client(digits):
    client = clients_of("dirichlet", rows=digits, alpha=1e-4, min_rows=0).client
    counts = table_by_label(digits, client, 5)
    assert ((counts > 0).sum(axis=1) == 1).all()


def test_dirichlet_shares_have_the_variance_of_their_law():
    """A share has the mean 1/n and the variance (1/n)(1 - 1/n) / (n alpha + 1)."""
    rows = rows_of(stream_of(table_of(num_classes=100, rows_per_class=200)))
    counts = table_by_label(rows, clients_of("dirichlet", rows=rows, alpha=0.5).client, 5)
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert shares.mean() == pytest.approx(1 / 5)
    assert shares.var() == pytest.approx(0.2 * 0.8 / 3.5, rel=0.15)


def test_a_client_is_tested_on_the_mix_that_it_trains_on():
    client = clients_of("dirichlet", alpha=0.2).client
    for label in range(6):
        shares = []
        for part in range(len(PARTS)):
            here = (ROWS.labels == label) & (ROWS.parts == part)
            sizes = np.bincount(client[here], minlength=5)
            shares.append(sizes / sizes.sum())
            assert np.abs(sizes - shares[0] * sizes.sum()).max() < 2


@pytest.mark.parametrize("k", [1, 2, 6])
def test_pathological_clients_have_k_classes_that_are_evenly_taken(k):
    counts = table_by_label(ROWS, clients_of("pathological", 9, classes=k).client, 9)
    assert ((counts > 0).sum(axis=0) == k).all()
    holders = (counts > 0).sum(axis=1)
    assert holders.max() - holders.min() <= 1


def test_pathological_clients_may_have_k_classes_of_each_task():
    found = clients_of("pathological", 4, classes=1, each_task=True).client
    for task in range(3):
        here = TRAINING & (ROWS.tasks == task)
        for client in range(4):
            assert len(np.unique(ROWS.labels[here & (found == client)])) == 1


@pytest.mark.parametrize(("k", "clients"), [(7, 5), (1, 5)])
def test_classes_that_do_not_go_into_clients_are_refused(k, clients):
    with pytest.raises(InputError, match=rf"^federation\.partition\.classes: {k} does not fit"):
        clients_of("pathological", clients, classes=k)


def test_power_law_sizes_follow_the_exponent():
    rows = rows_of(stream_of(table_of(rows_per_class=400)))
    client = clients_of("quantity", 4, rows=rows, law="power", alpha=1.0).client
    sizes = np.sort(np.bincount(client[rows.parts == 0]))[::-1]
    assert sizes / sizes[0] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4], abs=0.01)


def test_quantity_skew_leaves_the_mix_of_tasks_alone():
    client = clients_of("quantity", 4, law="power", alpha=1.0).client
    for task in range(3):
        sizes = np.bincount(client[TRAINING & (ROWS.tasks == task)], minlength=4)
        total = np.bincount(client[TRAINING], minlength=4)
        assert np.abs(sizes - total / 3).max() <= 1


def test_shards_are_of_equal_size_and_of_few_classes():
    found = clients_of("shard", 6, shards=2).client
    sizes = np.bincount(found[TRAINING])
    assert sizes.max() - sizes.min() <= 2
    counts = table_by_label(ROWS, found, 6)
    assert ((counts > 0).sum(axis=0) <= 4).all()


def test_natural_clients_are_the_owners_and_need_no_number():
    found = partition(partitioner_class("natural")(by="user"), ROWS, None, seed=0)
    assert found.names == tuple(f"user {n}" for n in range(5))
    names = np.array(found.names)[found.client]
    assert names.tolist() == [TABLE.owners["user"][row] for row in ROWS.ids]


def test_fewer_natural_clients_put_owners_together_evenly():
    found = clients_of("natural", 2, by="group")
    assert sorted(found.names) == ["group 0 + group 2", "group 1"]
    sizes = np.bincount(found.client[TRAINING])
    assert max(sizes) == pytest.approx(2 * min(sizes), abs=3)


def test_more_clients_than_owners_are_refused():
    with pytest.raises(InputError, match=r"^federation\.clients: 6 is more .* \(allowed: 1 to 5\)"):
        clients_of("natural", 6, by="user")


def test_an_unknown_owner_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"by: 'users' is unknown; did you mean 'user'\?"):
        clients_of("natural", 5, by="users")


def test_a_source_without_owners_says_where_they_come_from():
    with pytest.raises(InputError, match=r"by: 'user' is unknown; .* stream\.client_column"):
        clients_of("natural", 5, rows=rows_of(STREAM), by="user")


def test_all_of_a_domain_stays_at_home_at_share_one():
    found = clients_of("domain", 6, share=1.0).client
    for client in range(6):
        assert len(np.unique(ROWS.tasks[found == client])) == 1
    assert (np.bincount(ROWS.tasks[np.unique(found, return_index=True)[1]]) == 2).all()


def test_a_domain_is_even_at_share_zero():
    found = clients_of("domain", 6, share=0.0).client
    sizes = np.bincount(found[TRAINING & (ROWS.tasks == 0)], minlength=6)
    assert sizes.max() - sizes.min() <= 1


def test_a_client_without_rows_is_refused_unless_asked_for():
    rows = rows_of(stream_of(table_of(num_classes=2, rows_per_class=4)))
    with pytest.raises(InputError, match=r"^federation\.partition\.min_rows: .* 0 allows"):
        clients_of("iid", 50, rows=rows)
    sizes = np.bincount(clients_of("iid", 50, rows=rows, min_rows=0).client, minlength=50)
    assert sizes.sum() == 8


def test_partitions_with_poor_clients_are_drawn_again():
    poorest = []
    for seed in range(5):
        client = clients_of("dirichlet", 8, seed, alpha=0.3, min_rows=5).client
        poorest.append(np.bincount(client[TRAINING], minlength=8).min())
    assert min(poorest) >= 5


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("dirichlet", {"alpha": 0.0}, r"alpha: 0\.0 is not allowed"),
        ("quantity", {"law": "powr"}, r"law: 'powr' is unknown; did you mean 'power'\?"),
        ("shard", {"shards": 0}, r"shards: 0 is too few"),
        ("pathological", {"classes": 0}, r"classes: 0 is too few"),
        ("domain", {"share": 1.5}, r"share: 1\.5 is no share"),
        ("iid", {"min_rows": -1}, r"min_rows: -1 is negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, settings, message):
    with pytest.raises(InputError, match=rf"^federation\.partition\.{message}"):
        partitioner_class(kind)(**settings)


def test_no_number_of_clients_is_refused_where_nature_does_not_give_one():
    with pytest.raises(InputError, match=r"^federation\.clients: null"):
        clients_of("iid", None)


def test_an_unknown_kind_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"^federation\.partition\.kind: .* 'dirichlet'\?"):
        partitioner_class("dirchlet")


def test_assistant_sentences_have_natural_clients_by_language_and_room():
    table = source_class("assistant")(language=("en", "de"), sentences_per_intent=12).load(seed=0)
    stream = stream_of(table)
    rows = rows_of(stream, table)
    by_language = partition(partitioner_class("natural")(by="language"), rows, None, seed=0)
    assert by_language.names == ("de", "en")
    by_room = partition(partitioner_class("natural")(by="room"), rows, None, seed=0)
    assert {"kitchen", "anywhere", "Loft"} <= set(by_room.names)
    kitchen = by_room.rows(by_room.names.index("kitchen"))
    assert all("kitchen" in table.values[row] for row in rows.ids[kitchen])

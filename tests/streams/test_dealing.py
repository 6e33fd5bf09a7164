"""A manifest from a stream, a partition and an arrival process."""

from math import isnan

import pytest
import torch

from lamina.core import PARTS
from lamina.streams.arrivals import arrival_class
from lamina.streams.dealing import make_manifest
from lamina.streams.partitioners import partitioner_class
from tables import ids_of, stream_of, table_of

TABLE = table_of()
STREAM = stream_of(TABLE)
TASK_OF = {
    row: each.task.index
    for each in STREAM.experiences
    for part in PARTS
    for row in each.part(part).ids.tolist()
}


def manifest_of(kind="in_step", clients=4, seed=0, partition=None, **settings):
    partitioner = partition or partitioner_class("iid")()
    arrival = arrival_class(kind)(**settings)
    return make_manifest(STREAM, clients, partitioner, arrival, seed, TABLE)


EVERYTHING = {
    "kind": "poisson",
    "order": "own",
    "recurrences": 2,
    "pieces": 2,
    "blurry": 0.3,
    "joining": 0.5,
    "leaving": 0.5,
}


@pytest.mark.parametrize("settings", [{}, EVERYTHING])
def test_every_row_is_at_one_client_once_and_in_its_part(settings):
    manifest = manifest_of(**settings)
    for part in PARTS:
        held = torch.cat([manifest.rows(client, part) for client in range(4)])
        of_stream = torch.cat([each.part(part).ids for each in STREAM.experiences])
        assert torch.equal(held.sort().values, of_stream.sort().values)
    assert sorted(manifest.entries.ids.tolist()) == ids_of(STREAM)
    assert manifest.counts.sum() == len(TABLE)


@pytest.mark.parametrize("settings", [{}, EVERYTHING])
def test_the_same_settings_give_the_same_manifest_and_another_seed_another(settings):
    assert manifest_of(**settings) == manifest_of(**settings)
    assert manifest_of(**settings) != manifest_of(seed=1, **settings)


def test_in_step_all_clients_are_at_the_same_task():
    manifest = manifest_of()
    for client in range(4):
        deliveries = manifest.deliveries(client)
        assert [(delivery.time, delivery.task) for delivery in deliveries] == [
            (0, 0),
            (1, 1),
            (2, 2),
        ]
        assert [delivery.drift for delivery in deliveries] == ["start", "sudden", "sudden"]
        for delivery in deliveries:
            assert {TASK_OF[row] for row in delivery.rows.tolist()} == {delivery.task}


def test_own_orders_differ_between_clients_and_go_through_all_tasks():
    manifest = manifest_of(clients=10, order="own")
    orders = {
        tuple(delivery.task for delivery in manifest.deliveries(client)) for client in range(10)
    }
    assert len(orders) > 2
    assert all(sorted(order) == [0, 1, 2] for order in orders)


def test_asynchronous_clients_are_at_different_tasks_at_one_time():
    manifest = manifest_of("poisson", clients=10)
    assert len({manifest.latest(c, 2.0).task for c in manifest.present(2.0)}) > 1


def test_a_client_without_rows_of_a_task_has_no_delivery_for_it_and_keeps_step():
    by_group = partitioner_class("natural")(by="group")
    manifest = manifest_of(clients=3, partition=by_group)
    assert [[(e.time, e.task) for e in manifest.deliveries(c)] for c in range(3)] == [
        [(0.0, 0)],
        [(1.0, 1)],
        [(2.0, 2)],
    ]


def test_recurring_tasks_come_again_with_rows_of_their_own():
    deliveries = manifest_of(recurrences=2).deliveries(0)
    assert [delivery.task for delivery in deliveries] == [0, 1, 2, 0, 1, 2]
    assert [delivery.drift for delivery in deliveries][2:] == ["sudden", *["recurring"] * 3]
    rows = torch.cat([delivery.rows for delivery in deliveries])
    assert len(rows.unique()) == len(rows)
    assert abs(len(deliveries[0].rows) - len(deliveries[3].rows)) <= 1


def test_pieces_of_a_task_are_no_drift():
    deliveries = manifest_of(pieces=3).deliveries(0)
    assert [delivery.task for delivery in deliveries] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [delivery.drift for delivery in deliveries][:4] == ["start", "none", "none", "sudden"]
    sizes = [len(delivery.rows) for delivery in deliveries[:3]]
    assert max(sizes) - min(sizes) <= 1


def test_blurred_borders_move_the_share_to_neighbours_only():
    share = 0.4
    deliveries = manifest_of(clients=1, blurry=share).deliveries(0)
    assert [delivery.drift for delivery in deliveries] == ["start", "gradual", "gradual"]
    mix = torch.zeros(3, 3)
    for delivery in deliveries:
        for row in delivery.rows.tolist():
            mix[TASK_OF[row], delivery.task] += 1
    moved = mix.sum(dim=1) - mix.diagonal()
    assert torch.equal(moved, (share * mix.sum(dim=1)).floor())
    assert mix[0, 2] == mix[2, 0] == 0
    assert mix[1, 0] > 0
    assert mix[1, 2] > 0


def test_blurring_leaves_what_is_evaluated_alone():
    manifest = manifest_of(blurry=0.4)
    for client in range(4):
        for task in range(3):
            assert {TASK_OF[row] for row in manifest.rows(client, "test", task).tolist()} == {task}


@pytest.mark.parametrize("kind", ["in_step", "periodic", "poisson"])
def test_late_clients_miss_what_came_before_and_still_have_something(kind):
    manifest = manifest_of(kind, clients=20, joining=0.5)
    late = [client for client in manifest.clients if client.joined > 0]
    assert len(late) == 10
    for number, client in enumerate(manifest.clients):
        deliveries = manifest.deliveries(number)
        assert deliveries
        assert deliveries[0].time >= client.joined
    missed = [each for each in manifest.entries if each.part == "train" and isnan(each.time)]
    assert bool(missed) == (kind == "in_step")
    assert {each.client for each in missed} <= {
        number for number, client in enumerate(manifest.clients) if client.joined > 0
    }


def test_clients_that_leave_get_nothing_afterwards():
    manifest = manifest_of("poisson", clients=20, leaving=0.5)
    gone = [number for number, client in enumerate(manifest.clients) if client.left is not None]
    assert len(gone) == 10
    for number in gone:
        left = manifest.clients[number].left
        deliveries = manifest.deliveries(number)
        assert deliveries
        assert deliveries[-1].time < left
        assert number in manifest.present(deliveries[-1].time)
        assert number not in manifest.present(left)


def test_joining_moves_no_times_of_clients_that_were_there_before():
    before, after = (
        manifest_of("poisson", clients=10),
        manifest_of("poisson", clients=10, joining=0.3),
    )
    early = [number for number, client in enumerate(after.clients) if client.joined == 0]
    assert len(early) == 7
    for number in early:
        times = [
            [delivery.time for delivery in each.deliveries(number)] for each in (before, after)
        ]
        assert times[0] == times[1]


def test_what_a_client_is_at_is_its_last_delivery_so_far():
    manifest = manifest_of("poisson")
    deliveries = manifest.deliveries(0)
    assert manifest.latest(0, deliveries[0].time - 1e-9) is None
    assert manifest.latest(0, deliveries[1].time).rows.tolist() == deliveries[1].rows.tolist()
    assert manifest.latest(0, 1e9).task == deliveries[-1].task


def test_changes_are_arrivals_and_departures_in_order():
    manifest = manifest_of("poisson", leaving=1.0)
    expected = {delivery.time for client in range(4) for delivery in manifest.deliveries(client)}
    expected |= {client.left for client in manifest.clients}
    found, time = [], manifest.next_change(-1.0)
    while time is not None:
        found.append(time)
        time = manifest.next_change(time)
    assert found == sorted(expected)


def test_clients_without_rows_have_no_stream():
    partitioner = partitioner_class("dirichlet")(alpha=1e-4, min_rows=0)
    manifest = manifest_of(clients=20, partition=partitioner, joining=1.0, leaving=1.0)
    idle = [client for client in range(20) if not manifest.deliveries(client)]
    assert idle
    assert not set(idle) & set(manifest.present(1e9))
    assert len(manifest.rows(idle[0], "train")) == 0


def test_a_manifest_records_how_it_was_made():
    record = manifest_of("poisson", rate=2.0, seed=3).record
    assert record["clients"] == 4
    assert record["seed"] == 3
    assert record["partition"] == {"kind": "iid", "min_rows": 1}
    assert record["arrival"]["kind"] == "poisson"
    assert record["arrival"]["rate"] == 2.0

import json

import pytest

from lamina.federation.server.clock import ClockSettings, Load, Participants, VirtualClock
from lamina.registry import InputError

CLIENTS = list(range(20))
SLOW = ClockSettings(speed_spread=1.0, bytes_per_second=1e5, bandwidth_spread=0.5)


def load_of(client):
    return Load(steps=10 + client, down=10_000, up=20_000)


def plans(settings, participants, number=6, seed=3):
    clock = VirtualClock(settings, seed)
    return [clock.plan(participants, CLIENTS, version, load_of) for version in range(number)]


def test_the_same_seed_gives_the_same_rounds_and_another_seed_others():
    settings = ClockSettings(speed_spread=1.0, dropout=0.2, availability=0.5)
    participants = Participants(5)
    assert plans(settings, participants) == plans(settings, participants)
    assert plans(settings, participants) != plans(settings, participants, seed=4)


def test_a_synchronous_round_lasts_as_long_as_its_slowest_client():
    clock = VirtualClock(SLOW, 0)
    plan = clock.plan(Participants(20), CLIENTS, 0, load_of)
    assert [each.client for each in plan.arrivals] != CLIENTS
    assert sorted(each.client for each in plan.arrivals) == CLIENTS
    ends = [each.end for each in plan.arrivals]
    assert ends == sorted(ends)
    assert clock.time == plan.end == ends[-1] > 0


def test_time_is_steps_by_speed_plus_bytes_by_bandwidth():
    settings = ClockSettings(seconds_per_step=0.5, bytes_per_second=1000.0)
    plan = VirtualClock(settings, 0).plan(Participants(1), [7], 0, lambda _: Load(4, 3000, 1000))
    assert plan.end == 4 * 0.5 + 3.0 + 1.0


def test_a_deadline_takes_the_first_and_cuts_the_rest():
    participants = Participants(5, mode="deadline", over_selection=2.0, deadline=1e9)
    (plan,) = plans(SLOW, participants, number=1)
    assert len(plan.arrivals) == 5
    assert len(plan.others) == 5
    assert {each.fate for each in plan.others} == {"is late"}
    assert max(each.end for each in plan.arrivals) <= min(each.end for each in plan.others)
    assert plan.end == plan.arrivals[-1].end


def test_a_deadline_that_nobody_meets_ends_the_round_without_arrivals():
    clock = VirtualClock(ClockSettings(), 0)
    plan = clock.plan(Participants(5, mode="deadline", deadline=0.5), CLIENTS, 0, load_of)
    assert plan.arrivals == ()
    assert clock.time == 0.5


def test_a_buffered_round_ends_with_the_kth_arrival_and_others_train_on():
    clock = VirtualClock(SLOW, 0)
    participants = Participants(8, mode="buffered", buffer=3)
    seen = []
    for version in range(10):
        plan = clock.plan(participants, CLIENTS, version, load_of)
        assert len(plan.arrivals) == 3
        assert len({each.client for each in plan.arrivals}) == 3
        assert 5 <= len(clock.in_flight) <= 8
        seen += plan.arrivals
    staleness = [version // 3 - each.version for version, each in enumerate(seen)]
    assert min(staleness) == 0
    assert max(staleness) > 0
    ends = [each.end for each in seen]
    assert ends == sorted(ends)


def test_nobody_trains_twice_at_a_time():
    clock = VirtualClock(SLOW, 1)
    for version in range(20):
        clock.plan(Participants(8, mode="buffered", buffer=2), CLIENTS[:9], version, load_of)
        flying = [each.client for each in clock.in_flight]
        assert len(set(flying)) == len(flying)


@pytest.mark.parametrize("mode", ["synchronous", "deadline", "buffered"])
def test_a_clock_goes_on_from_its_state_as_if_nothing_had_happened(mode):
    settings = ClockSettings(speed_spread=1.0, dropout=0.1, lost_uploads=0.1)
    participants = Participants(6, mode=mode, buffer=2, deadline=5.0, over_selection=1.5)
    whole = plans(settings, participants, number=8)
    first = VirtualClock(settings, 3)
    for version in range(4):
        first.plan(participants, CLIENTS, version, load_of)
    second = VirtualClock(settings, 3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.plan(participants, CLIENTS, v, load_of) for v in range(4, 8)] == whole[4:]


def test_dropouts_and_lost_uploads_come_as_often_as_asked():
    settings = ClockSettings(dropout=0.3, lost_uploads=0.5)
    fates = [
        each.fate
        for plan in plans(settings, Participants(20), number=200)
        for each in (*plan.arrivals, *plan.others)
    ]
    assert fates.count("drops") / len(fates) == pytest.approx(0.3, abs=0.03)
    assert fates.count("is lost") / len(fates) == pytest.approx(0.35, abs=0.03)


def test_poisson_sampling_asks_each_client_by_itself():
    rounds = plans(ClockSettings(), Participants(5, sampling="poisson"), number=400)
    sizes = [len(plan.arrivals) for plan in rounds]
    assert sum(sizes) / len(sizes) == pytest.approx(5, abs=0.4)
    assert len(set(sizes)) > 4
    often = sum(each.client == 0 for plan in rounds for each in plan.arrivals) / len(rounds)
    assert often == pytest.approx(0.25, abs=0.07)


def test_a_round_that_everybody_leaves_has_no_arrivals():
    (plan,) = plans(ClockSettings(dropout=0.999999), Participants(5), number=1)
    assert plan.arrivals == ()
    assert {each.fate for each in plan.others} == {"drops"}


def test_recalled_clients_are_late():
    clock = VirtualClock(SLOW, 0)
    clock.plan(Participants(8, mode="buffered", buffer=1), CLIENTS, 0, load_of)
    assert {each.fate for each in clock.withdraw()} == {"is late"}
    assert clock.in_flight == []


@pytest.mark.parametrize(
    ("key", "value"), [("availability", 0.0), ("dropout", 1.0), ("seconds_per_step", -1.0)]
)
def test_a_clock_that_cannot_be_is_refused_by_its_key(key, value):
    with pytest.raises(InputError, match=f"federation.clock.{key}"):
        ClockSettings(**{key: value})

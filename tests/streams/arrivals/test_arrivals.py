"""When deliveries of one client happen, by each process."""

import numpy as np
import pytest

from lamina.registry import InputError
from lamina.streams.arrivals import arrival_class, arrival_names

SLOTS = np.arange(20_000)


def times_of(kind, slots=SLOTS, joined=0.0, seed=0, client="a", **settings):
    random = np.random.default_rng(seed)
    return arrival_class(kind)(**settings).times(client, slots, joined, random)


def test_the_kinds_are_those_of_the_folder():
    assert arrival_names() == ["in_step", "periodic", "poisson", "trace"]


def test_in_step_the_kth_task_comes_at_time_k_whatever_a_client_lacks():
    assert times_of("in_step", np.array([0, 2, 3])).tolist() == [0.0, 2.0, 3.0]


def test_in_step_pieces_come_within_their_step():
    assert times_of("in_step", np.arange(4), pieces=2).tolist() == [0.0, 0.5, 1.0, 1.5]


def test_poisson_gaps_are_exponential_with_the_rate_and_independent():
    gaps = np.diff(times_of("poisson", rate=4.0), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 4, rel=0.03)
    assert gaps.var() == pytest.approx(1 / 16, rel=0.06)
    assert (gaps > 0.5).mean() == pytest.approx(np.exp(-2), rel=0.06)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


def test_poisson_counts_in_a_step_have_the_mean_and_variance_of_the_rate():
    counts = np.bincount(times_of("poisson", rate=4.0).astype(int))[:4000]
    assert counts.mean() == pytest.approx(4, rel=0.05)
    assert counts.var() == pytest.approx(4, rel=0.1)


def test_a_client_that_joins_late_starts_its_process_then():
    assert times_of("poisson", joined=7.0)[0] > 7.0
    assert (times_of("poisson", joined=7.0) - times_of("poisson")) == pytest.approx(7.0)


def test_periodic_deliveries_are_a_period_apart_and_start_within_the_first():
    times = times_of("periodic", period=2.0)
    assert np.diff(times) == pytest.approx(2.0)
    assert 0 <= times[0] < 2.0


def test_periods_of_clients_are_spread_evenly():
    periods = [np.diff(times_of("periodic", np.arange(2), seed=s, spread=0.5)) for s in range(400)]
    assert min(periods) >= 0.5
    assert max(periods) <= 1.5
    assert np.mean(periods) == pytest.approx(1.0, abs=0.05)
    assert np.std(periods) == pytest.approx(1 / np.sqrt(12), rel=0.1)


def test_a_trace_gives_a_clients_first_times_in_order(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("client,time\na,3.5\nb,0\na,1\na,9\n")
    assert times_of("trace", np.arange(2), path=str(path)).tolist() == [1.0, 3.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client,when\na,1\n", r"lacks the column 'time'"),
        ("client,time\na,-1\n", r"line 2: time '-1' is not allowed"),
        ("client,time\na,soon\n", r"line 2: time 'soon' is not allowed"),
        ("client,time\na,nan\n", r"line 2: time 'nan' is not allowed"),
        ("client,time\na\n", r"line 2: time None is not allowed"),
        ("client,time\na,1\n", r"has 1 times of client 'a', which has 2 deliveries"),
    ],
)
def test_a_trace_that_does_not_fit_is_refused(tmp_path, text, message):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"^federation\.arrival\.path: .*{message}"):
        times_of("trace", np.arange(2), path=str(path))


def test_a_trace_of_other_clients_is_refused_with_the_nearest_one(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("client,time\nclient 1,1\n")
    with pytest.raises(InputError, match=r"path: client: 'client 2' .* did you mean 'client 1'\?"):
        times_of("trace", np.arange(1), client="client 2", path=str(path))


def test_a_trace_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"^federation\.arrival\.path: 'no\.csv' cannot be read"):
        times_of("trace", np.arange(1), path="no.csv")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("poisson", {"rate": 0.0}, r"rate: 0\.0 is not allowed"),
        ("periodic", {"period": -1.0}, r"period: -1\.0 is not allowed"),
        ("periodic", {"spread": 1.0}, r"spread: 1\.0 is not allowed"),
        ("in_step", {"order": "won"}, r"order: 'won' is unknown; did you mean 'own'\?"),
        ("in_step", {"pieces": 0}, r"pieces: 0 is too few"),
        ("in_step", {"recurrences": 0}, r"recurrences: 0 is too few"),
        ("in_step", {"blurry": 1.0}, r"blurry: 1\.0 is no share"),
        ("in_step", {"joining": 1.1}, r"joining: 1\.1 is no share"),
        ("in_step", {"leaving": -0.1}, r"leaving: -0\.1 is no share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, settings, message):
    with pytest.raises(InputError, match=rf"^federation\.arrival\.{message}"):
        arrival_class(kind)(**settings)

"""The state machine with answers made up here: no backbone trains."""

from dataclasses import replace

import pytest
import torch

from lamina.federation.aggregators.fedit import FedIT
from lamina.federation.aggregators.ffa_lora import FFALoRA
from lamina.federation.aggregators.rolora import RoLoRA
from lamina.federation.optimisers.fedavgm import FedAvgM
from lamina.federation.privacy.accounting import Accountant, BudgetError, Release
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.server.clock import ClockSettings, Participants
from lamina.federation.server.private_sum import PrivateSum
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.shared_model import SharedModel
from lamina.federation.state import Scaling
from lamina.federation.timetable import Entry, is_in_step, timetable
from lamina.federation.update import ClientUpdate
from lamina.federation.work import DownloadSizes, LocalWork, Reply
from lamina.registry import InputError
from lamina.strategies import strategy_class
from lamina.streams.arrivals.in_step import InStep
from lamina.streams.arrivals.periodic import Periodic
from lamina.streams.dealing import make_manifest
from lamina.streams.partitioners.iid import Iid
from lamina.training.checkpoint import pack, unpack
from nouns import nouns_stream

A, B, HEAD = "main.q.lora_A.weight", "main.q.lora_B.weight", "head.weight"
DOWN = DownloadSizes(1000, 50)
NOBODY_WAITS = Participants(3, mode="buffered", buffer=2)
UNEVEN = ClockSettings(speed_spread=1.0)


@pytest.fixture(scope="module")
def manifest(tiny_bert):
    return make_manifest(nouns_stream(tiny_bert), 4, Iid(), InStep(), seed=0)


def tensors():
    return {A: torch.ones(2, 3), B: torch.zeros(3, 2), HEAD: torch.zeros(2, 3)}


def make_run(manifest, rounds=4, participants=None, clock=None, aggregator=None, optimiser=None):
    entries = (
        Entry("begin", 0.0),
        *(Entry("train", each / rounds, 0, each) for each in range(rounds)),
        Entry("end", 0.0, 0, rounds),
    )
    settings = RunSettings(
        manifest=manifest,
        timetable=entries,
        aggregator=aggregator or FedIT(weighting="equal"),
        optimiser=optimiser,
        participants=participants or Participants(4),
        clock=clock or ClockSettings(),
        local=LocalWork(),
        batch_size=4,
        seed=0,
        scaling=Scaling(),
        ranks=(),
        personal=False,
        ids={},
    )
    run = FederatedRun(settings)
    begin(run)
    return run


def begin(run):
    shared_model = SharedModel({"adapters": {}, "active": []}, {}, (A, B, HEAD))
    run.apply(run.work(), [Reply(boundary=(shared_model, tensors()))], DOWN)


def found(run, item):
    """What an honest client sends: every tensor it may, one more than its start, by its number."""
    aggregator, state = run.settings.aggregator, run.server.state_of(item.version)
    return ClientUpdate(
        client=run.settings.manifest.clients[item.client].name,
        round=item.version,
        tensors={
            name: value + 1 + item.client
            for name, value in state.tensors.items()
            if aggregator.sends(item.version, name)
        },
        num_rows=3,
        phase=aggregator.phase(item.version),
        base=state.digest(),
        metrics={"loss": 1.0},
    )


def do_round(run, spoil=None):
    """A round in which everybody is honest, but for whom `spoil` changes."""
    work = run.work()
    replies = [Reply(found(run, item), 100) for item in work.items]
    if spoil is not None:
        replies[0] = replace(replies[0], update=spoil(replies[0].update))
    return run.apply(work, replies, DOWN)


def with_tensor(name, value):
    return lambda update: replace(update, tensors={**update.tensors, name: value})


SPOILT = {
    "not finite": with_tensor(A, torch.full((2, 3), float("nan"))),
    "shape": with_tensor(A, torch.ones(3, 2)),
    "unknown": with_tensor("main.q.rows", torch.ones(2, 3)),
    "missing": lambda update: replace(update, tensors={A: update.tensors[A]}),
    "phase": lambda update: replace(update, phase="a"),
    "base": lambda update: replace(update, base="0" * 64),
    "round": lambda update: replace(update, round=7),
    "not asked": lambda update: replace(update, client="a stranger"),
}


@pytest.mark.parametrize("why", SPOILT)
def test_a_bad_update_is_counted_and_refused_and_the_round_goes_on(manifest, why):
    run = make_run(manifest)
    metrics = do_round(run, SPOILT[why])
    assert run.server.traffic.refused == {why: 1}
    assert (metrics["refused"], metrics["clients"]) == (1, 3)
    assert torch.equal(run.server.global_state.tensors[A], torch.full((2, 3), 1 + (2 + 3 + 4) / 3))
    assert run.server.traffic.included.tolist() == [0, 1, 1, 1]
    assert run.server.version == 1


def test_an_update_that_came_twice_counts_once(manifest):
    run = make_run(manifest)
    work = run.work()
    replies = [Reply(found(run, item), 100) for item in work.items]
    replies[1] = replies[0]
    run.apply(work, replies, DOWN)
    assert run.server.traffic.refused == {"duplicate": 1}
    assert torch.equal(run.server.global_state.tensors[A], torch.full((2, 3), 1 + (1 + 3 + 4) / 3))


def test_bytes_that_are_no_update_are_counted_and_the_client_keeps_what_it_had(manifest):
    run = make_run(manifest)
    work = run.work()
    run.server.client_states[0] = "before"
    replies = [Reply(found(run, item), 100, client_state="new") for item in work.items]
    replies[0] = Reply(None, 9, client_state="new", damage="unreadable")
    run.apply(work, replies, DOWN)
    assert run.server.traffic.refused == {"unreadable": 1}
    assert run.server.client_states == {0: "before", 1: "new", 2: "new", 3: "new"}
    assert run.server.traffic.up.tolist() == [9, 100, 100, 100]


def test_what_is_common_is_sent_once_after_each_boundary(manifest):
    run = make_run(manifest)
    do_round(run)
    do_round(run)
    assert run.server.traffic.down.tolist() == [2 * 1000 + 50] * 4
    assert run.server.traffic.up_of_task.tolist() == [2 * 4 * 100, 0, 0]
    assert run.server.traffic.down_of_task.tolist() == [4 * (2 * 1000 + 50), 0, 0]


def test_the_network_takes_time_for_the_ledger_on_the_way_down_and_not_on_the_way_up(manifest):
    run = make_run(manifest, clock=ClockSettings(seconds_per_step=0, bytes_per_second=1))
    ledger = {A: torch.ones(4, 3), B: torch.ones(3, 4)}
    run.server.global_state = replace(run.server.global_state, ledger=ledger)
    sent, beside = (sum(4 * each.numel() for each in t.values()) for t in (tensors(), ledger))
    assert do_round(run)["virtual_seconds"] == sent + beside + sent


def test_a_round_without_updates_changes_nothing(manifest):
    run = make_run(manifest, clock=ClockSettings(dropout=0.999999))
    before = run.server.global_state
    metrics = do_round_of_nobody(run)
    assert run.server.global_state is before
    assert metrics["missing"] == 4
    assert run.server.traffic.up.tolist() == [0] * 4
    assert run.server.traffic.down.tolist() == [1000] * 4
    assert run.server.version == 1


def test_an_optimiser_with_nothing_to_take_counts_nobody_as_included(manifest):
    run = make_run(manifest, optimiser=FedAvgM())
    do_round(run)
    run.server.clock.settings = ClockSettings(dropout=0.999999)
    do_round_of_nobody(run)
    assert run.server.traffic.included.tolist() == [1] * 4


def do_round_of_nobody(run):
    work = run.work()
    assert work.items == ()
    return run.apply(work, [], DOWN)


def test_the_server_optimiser_takes_the_step(manifest):
    run = make_run(manifest, optimiser=FedAvgM(learning_rate=0.5, momentum=0.0))
    do_round(run)
    assert torch.equal(run.server.global_state.tensors[A], torch.full((2, 3), 1 + 0.5 * 2.5))


def test_alternating_rounds_send_one_factor_and_leave_the_other(manifest):
    run = make_run(manifest, aggregator=RoLoRA(weighting="equal"))
    do_round(run)
    assert torch.equal(run.server.global_state.tensors[A], torch.ones(2, 3))
    assert torch.equal(run.server.global_state.tensors[B], torch.full((3, 2), 2.5))
    do_round(run)
    assert torch.equal(run.server.global_state.tensors[A], torch.full((2, 3), 3.5))


def test_a_buffered_round_joins_late_updates_by_their_age(manifest):
    run = make_run(manifest, rounds=8, participants=NOBODY_WAITS, clock=UNEVEN)
    for _ in range(8):
        work = run.work()
        expected = run.server.global_state.tensors[A] + sum(
            (1 + item.client) * (1 + run.server.version - item.version) ** -0.5
            for item in work.items
        ) / len(work.items)
        do_round(run)
        torch.testing.assert_close(run.server.global_state.tensors[A], expected)
    assert max(run.server.traffic.staleness) > 0
    assert not run.server.traffic.refused


def test_a_boundary_calls_back_who_is_still_training(manifest):
    run = make_run(manifest, rounds=3, participants=NOBODY_WAITS, clock=UNEVEN)
    for _ in range(3):
        do_round(run)
    assert run.server.clock.in_flight
    begin(run)
    assert run.server.clock.in_flight == []
    assert run.server.history.states == {}
    assert run.done


@pytest.mark.parametrize("participants", [Participants(2), NOBODY_WAITS])
def test_a_run_goes_on_from_its_state_as_if_nothing_had_happened(manifest, participants):
    clock = ClockSettings(speed_spread=1.0, dropout=0.1)
    whole = make_run(manifest, 8, participants, clock, optimiser=FedAvgM())
    for _ in range(8):
        do_round(whole)
    first = make_run(manifest, 8, participants, clock, optimiser=FedAvgM())
    for _ in range(4):
        do_round(first)
    second = make_run(manifest, 8, participants, clock, optimiser=FedAvgM())
    second.load_state_dict(unpack(pack(first.server.state_dict())))
    for _ in range(4):
        do_round(second)
    assert pack(second.server.state_dict()) == pack(whole.server.state_dict())


def test_ffa_sends_no_a(manifest):
    run = make_run(manifest, aggregator=FFALoRA(weighting="equal"))
    assert A not in found(run, run.work().items[0]).tensors
    do_round(run)
    assert torch.equal(run.server.global_state.tensors[A], torch.ones(2, 3))


def test_a_timetable_in_step_begins_and_ends_each_task_at_the_server(manifest):
    entries = timetable(manifest, strategy_class("ewc"), True, rounds=2)
    kinds = [each.kind for each in entries]
    assert kinds == ["begin", "train", "train", "review", "end", "evaluate"] * 3
    assert [each.round for each in entries if each.kind == "train"] == list(range(6))


def test_a_strategy_of_sums_has_no_rounds(manifest):
    entries = timetable(manifest, strategy_class("ranpac"), False, rounds=2)
    assert [each.kind for each in entries] == ["begin", "review", "end", "evaluate"] * 3


def test_clients_at_tasks_of_their_own_begin_and_end_them_themselves(tiny_bert):
    stream = nouns_stream(tiny_bert)
    manifest = make_manifest(stream, 4, Iid(), Periodic(order="own", spread=0.5), seed=0)
    assert not is_in_step(manifest)
    kinds = [each.kind for each in timetable(manifest, strategy_class("ewc"), True, rounds=2)]
    assert kinds[0] == "begin"
    assert set(kinds[1:]) == {"train", "evaluate"}


def private(**settings):
    chosen = PrivacySettings(**settings)
    return PrivateSum(chosen, chosen.of_clients(1.0, 4), poisson=False, seed=0)


def run_privately(manifest, sum_, clock=None):
    settings = make_run(manifest, clock=clock).settings
    run = FederatedRun(replace(settings, private=sum_))
    begin(run)
    return run


def test_a_secure_sum_gives_the_mean_and_no_update(manifest):
    ideal = run_privately(manifest, private(secure_sum="ideal", limit=8.0, bits=24))
    real = run_privately(manifest, private(secure_sum="real", limit=8.0, bits=24))
    for run in (ideal, real):
        do_round(run)
    torch.testing.assert_close(
        ideal.server.global_state.tensors[A], torch.full((2, 3), 3.5), atol=1e-4, rtol=0
    )
    assert torch.equal(ideal.server.global_state.tensors[A], real.server.global_state.tensors[A])


def test_a_secure_sum_that_too_many_leave_is_no_round(manifest):
    run = run_privately(
        manifest,
        private(secure_sum="ideal", threshold=1.0),
        ClockSettings(lost_uploads=0.5),
    )
    before = run.server.global_state
    while run.server.traffic.fates["is lost"] == 0:
        before = run.server.global_state
        do_round(run)
    assert run.server.global_state is before
    assert run.server.traffic.refused["sum aborted"] > 0


def test_noise_is_paid_for_before_it_is_released(manifest):
    pytest.importorskip("dp_accounting")
    run = run_privately(manifest, private(clip=1.0, noise_multiplier=1.0))
    run.server.budgets.of_clients = Accountant(1e-5, max_epsilon=6.0)
    do_round(run)
    assert 0 < run.server.budgets.of_clients.epsilon() < 6.0
    released = run.server.global_state
    with pytest.raises(BudgetError):
        do_round(run)
    assert run.server.global_state is released


def test_a_budget_that_does_not_hold_all_rounds_is_refused_before_the_first(manifest):
    pytest.importorskip("dp_accounting")
    tight = private(clip=1.0, noise_multiplier=1.0, max_epsilon=6.0)
    settings = replace(make_run(manifest).settings, private=tight)
    with pytest.raises(InputError, match="max_epsilon"):
        FederatedRun(settings)


def run_with_hidden_rows(manifest, rounds=4, aggregator=None, **settings):
    chosen = PrivacySettings(unit="example", clip=1.0, **settings)
    plain = make_run(manifest, rounds, aggregator=aggregator)
    run = FederatedRun(replace(plain.settings, row_privacy=chosen, batch_size=1))
    begin(run)
    return run


def dearest(manifest, rounds):
    """Of a client with the fewest rows, whose rows are the likeliest in a step of one."""
    few = min(len(manifest.latest(client, 0.0).rows) for client in range(len(manifest)))
    return Accountant(1e-5).epsilon(Release(1.0, 1 / few), rounds * few)


def test_the_rows_of_each_client_are_accounted_for_and_the_dearest_is_told(manifest):
    pytest.importorskip("dp_accounting")
    run = run_with_hidden_rows(manifest)
    metrics = [do_round(run) for _ in range(2)]
    assert [each["epsilon"] for each in metrics] == [dearest(manifest, 1), dearest(manifest, 2)]
    assert run.server.budgets.epsilon == max(run.server.budgets.of_rows.by_client().values())
    assert sorted(run.server.budgets.of_rows.by_client()) == [0, 1, 2, 3]
    again = run_with_hidden_rows(manifest)
    again.load_state_dict(unpack(pack(run.server.state_dict())))
    assert again.server.budgets.epsilon == run.server.budgets.epsilon


def test_a_client_whose_rows_have_no_budget_left_is_not_asked(manifest):
    pytest.importorskip("dp_accounting")
    few, many = dearest(manifest, 2), dearest(manifest, 3)
    run = run_with_hidden_rows(manifest, max_epsilon=(few + many) / 2)
    asked = []
    for _ in range(4):
        asked.append(len(run.work().items))
        do_round(run)
    sizes = [len(manifest.latest(client, 0.0).rows) for client in range(4)]
    assert asked[:2] == [4, 4]
    assert asked[2] == 4 - sizes.count(min(sizes))
    assert few <= run.server.budgets.epsilon <= (few + many) / 2


def test_an_update_that_came_too_late_is_paid_for_and_one_that_never_came_is_not(manifest):
    pytest.importorskip("dp_accounting")
    late = run_with_hidden_rows(manifest)
    late.settings = replace(
        late.settings, participants=Participants(2, mode="deadline", over_selection=2.0)
    )
    metrics = do_round(late)
    assert metrics["missing"] == 2
    assert sorted(late.server.budgets.of_rows.by_client()) == [0, 1, 2, 3]
    lost = run_with_hidden_rows(manifest)
    lost.server.clock.settings = ClockSettings(lost_uploads=0.999999)
    do_round_of_nobody(lost)
    assert lost.server.budgets.of_rows.by_client() == {}
    assert lost.server.budgets.epsilon == 0


def test_a_budget_that_holds_no_round_of_anybody_is_refused_before_the_first(manifest):
    pytest.importorskip("dp_accounting")
    with pytest.raises(InputError, match="one round costs epsilon"):
        run_with_hidden_rows(manifest, max_epsilon=0.1)

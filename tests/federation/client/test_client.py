"""What clients compute together, against one learner that sees all rows."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from lamina.adapters import kind_class
from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.model import AdaptedModel
from lamina.backbones.unpadded import TokenPositions
from lamina.core import StepOutput, Summary
from lamina.federation.aggregators.fedit import FedIT
from lamina.federation.aggregators.prompt_pool import PromptPool
from lamina.federation.client.client import ClientWork
from lamina.federation.client.client_state import ClientState
from lamina.federation.client.correction import Corrected, DriftSettings
from lamina.federation.client.setup import ClientSetup
from lamina.federation.fitness import misfit, previews, reviews
from lamina.federation.optimisers.fedavgm import FedAvgM
from lamina.federation.privacy.accounting import Accountant, Release
from lamina.federation.privacy.released import ReleaseRule
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.server.clock import ClockSettings, Participants
from lamina.federation.server.outcome import summaries_of
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.state import Scaling
from lamina.federation.timetable import timetable
from lamina.federation.work import Download, DownloadSizes, Item, LocalWork, Reply
from lamina.memory import policy_class
from lamina.registry import InputError
from lamina.strategies import strategy_class
from lamina.strategies.base import NO_ADAPTER, Strategy
from lamina.streams.arrivals.in_step import InStep
from lamina.streams.arrivals.periodic import Periodic
from lamina.streams.dealing import make_manifest
from lamina.streams.partitioners.iid import Iid
from lamina.training.cohort import shared, together
from lamina.training.evaluate import answered_rightly
from lamina.training.settings import TrainingSettings
from nouns import OF_CLASSES, SMALL, as_scenario, make_learner, nouns_stream

TRAINING = TrainingSettings(epochs=2, batch_size=4, learning_rate=1e-2)


def kind_of(cls):
    """The adapter of a strategy that trains one on every task."""
    if cls.trained_tasks != "all" or cls.adapters == (NO_ADAPTER,):
        return None
    if cls.adapters is None or "lora" in cls.adapters:
        return LoRA(rank=4)
    return kind_class(cls.adapters[0])()


class Small:
    """Three clients of the small stream, and a run of them in this process."""

    def __init__(
        self,
        name,
        backbone,
        arrival=None,
        drift=None,
        memory=None,
        privacy=None,
        review=False,
        aggregator=None,
        scenario=None,
        optimiser=None,
        **settings,
    ):
        cls = strategy_class(name)
        kind = kind_of(cls)
        self.stream = as_scenario(nouns_stream(backbone), scenario or cls.scenarios[0])
        self.manifest = make_manifest(self.stream, 3, Iid(), arrival or InStep(), seed=0)
        looks = Leaky if review else cls
        entries = timetable(self.manifest, looks, kind is not None, rounds=2)
        self.setup = ClientSetup(
            strategy=cls(**settings),
            adapter=kind,
            memory=memory,
            training=TRAINING,
            local=LocalWork(epochs=2),
            aggregator=aggregator or FedIT(),
            seed=0,
            stream=self.stream,
            manifest=self.manifest,
            in_step=any(entry.kind == "end" for entry in entries),
            backbone=backbone,
            drift=drift or DriftSettings(),
            privacy=privacy,
        )
        self.work = ClientWork.of(self.setup)
        self.run = FederatedRun(
            RunSettings(
                manifest=self.manifest,
                timetable=entries,
                aggregator=self.setup.aggregator,
                optimiser=optimiser,
                participants=Participants(3),
                clock=ClockSettings(),
                local=LocalWork(epochs=2),
                batch_size=4,
                seed=0,
                scaling=Scaling(4.0, 0.0),
                ranks=(),
                personal=False,
                ids={
                    (part, place): each.part(part).ids.sort().values
                    for place, each in enumerate(self.stream.experiences)
                    for part in ("validation", "test")
                },
                controls=self.setup.drift.name == "scaffold",
                row_privacy=privacy,
            )
        )
        self.client_states = {}
        self.updates = []

    def go(self, at_a_time=1):
        while (work := self.run.work()) is not None:
            calls = [partial(self.reply, work.entry, item) for item in work.items]
            packs = work.entry.kind == "train" and at_a_time > 1
            replies = together(calls, at_a_time, 64) if packs else [call() for call in calls]
            self.run.apply(work, replies, DownloadSizes(0, 0))
        return self

    def download(self, item):
        state = self.run.server.state_of(item.version)
        return Download(state, state.digest(), self.run.server.shared_model)

    def reply(self, entry, item):
        work, download, end = self.work, self.download(item), entry.kind in ("end", "review")
        if entry.kind in ("begin", "end"):
            summary = self.run.server.summary
            return Reply(boundary=work.boundaries.cross(download, item.task, summary, end=end))
        if entry.kind == "evaluate":
            return Reply(flags=work.evaluation.served(download, item, ClientState()))
        if item.client is None:
            return Reply(declared=work.boundaries.declared(download, item.task, end=end))
        alone = {}
        if entry.kind == "train":
            before = self.client_states.get(item.client, ClientState())
            update, after = work.training.train(download, item, before)
            self.client_states[item.client] = after
            if entry.is_last:
                alone = work.evaluation.alone(download, item, update, after)
        else:
            update = work.boundaries.summarise(download, item, end=end)
        self.updates.append(update)
        return Reply(update, 1, flags=alone)


@pytest.mark.parametrize(
    ("name", "settings"), [("ncm", {}), ("slda", {}), ("ranpac", {"projection": 64})]
)
def test_statistics_of_three_clients_are_those_of_all_rows(tiny_bert, name, settings):
    small = Small(name, tiny_bert, **settings).go()
    learner = make_learner(name, small.stream, tiny_bert, adapter=None, **settings)
    list(learner.learn())
    inputs = small.stream.experiences[0].test.inputs
    server = small.run.server
    tensors = server.global_state.tensors
    model, strategy = small.setup.loaded_model(server.shared_model, tensors, {})
    federated = strategy.predict(model, inputs, None)
    central = learner.strategy.predict(learner.model, inputs, None)
    torch.testing.assert_close(federated, central, atol=1e-4, rtol=1e-4)


def test_a_round_of_one_client_is_the_learner_itself_to_the_last_bit(tiny_bert):
    small = Small("finetune", tiny_bert)
    run, work = small.run, small.work.training
    run.apply(run.work(), [small.reply(run.work().entry, run.work().items[0])], DownloadSizes(0, 0))
    state = run.server.global_state
    before = {name: each.clone() for name, each in state.tensors.items()}
    download = Download(state, "x", run.server.shared_model)
    first, _ = work.train(download, Item(0, 0, 0, 0.0), ClientState())
    second, _ = work.train(download, Item(0, 0, 0, 0.0), ClientState())
    other, _ = work.train(download, Item(0, 0, 1, 0.0), ClientState())
    for name, each in first.tensors.items():
        assert torch.equal(each, second.tensors[name])
        assert torch.equal(state.tensors[name], before[name])
    assert any(not torch.equal(first.tensors[n], other.tensors[n]) for n in first.tensors)


OWN = Periodic(order="own", spread=0.4)


@pytest.mark.parametrize(
    ("name", "arrival"),
    [
        *((name, InStep()) for name in ("finetune", "er", "ewc", "lwf", "olora")),
        *((name, OWN) for name in ("finetune", "er", "ewc", "lwf")),
    ],
)
def test_strategies_go_through_a_stream_and_their_updates_hold_no_rows(tiny_bert, name, arrival):
    memory = policy_class("reservoir")(8) if name == "er" else None
    small = Small(name, tiny_bert, arrival=arrival, memory=memory).go()
    assert not small.run.server.traffic.refused
    shapes = Counter(len(each.tensors) for each in small.updates if each.phase == "both")
    assert shapes
    sent = small.run.server.traffic.up_of_task
    assert sent.sum() == small.run.server.traffic.up.sum() == len(small.updates)
    assert (sent > 0).all()
    allowed = set(small.run.server.shared_model.trained)
    tokens = max(part.inputs["input_ids"].shape[1] for part in _parts(small.stream))
    for update in small.updates:
        if update.phase == "both":
            assert name == "olora" or update.tensors.keys() == allowed
        for each in (*update.tensors.values(), *update.summaries.values()):
            assert each.is_floating_point()
            assert each.shape[-1:] != (tokens,)
        assert set(update.metrics) <= {"loss"}


@pytest.mark.parametrize("name", ["finetune", "er", "ewc"])
@pytest.mark.parametrize("arrival", [InStep(), OWN])
def test_a_pool_by_task_keeps_each_task_as_its_own_clients_left_it(tiny_bert, name, arrival):
    memory = policy_class("reservoir")(8) if name == "er" else None
    small = Small(
        name,
        tiny_bert,
        arrival=arrival,
        memory=memory,
        aggregator=PromptPool(),
        scenario="task_incremental",
    )
    run, server, states = small.run, small.run.server, []
    while (work := run.work()) is not None:
        before = server.global_state
        small.updates.clear()
        run.apply(work, [small.reply(work.entry, item) for item in work.items], DownloadSizes(0, 0))
        if work.entry.kind == "train":
            trained = {each.phase for each in small.updates}
            states.append(trained)
            copies = {n for n in server.global_state.tensors if "/" in n and "lora_B" in n}
            moved = {
                n.partition("/")[0]
                for n in copies
                if not torch.equal(
                    server.global_state.tensors[n], before.tensors.get(n, torch.zeros(()))
                )
            }
            assert moved == trained
    assert not server.traffic.refused
    keys = {f"task {each}" for each in range(3)}
    assert set().union(*states) == keys
    assert {n.partition("/")[0] for n in server.global_state.tensors if "/" in n} == keys
    if not isinstance(arrival, InStep):
        assert any(len(trained) > 1 for trained in states)
    for task in range(3):
        tensors = run.settings.aggregator.starting_tensors(
            server.global_state, task_key=f"task {task}"
        )
        model, strategy = small.setup.loaded_model(server.shared_model, tensors, {})
        experience = small.stream.experiences[task]
        right = answered_rightly(strategy, model, experience.test, experience.task, 16)
        assert int(server.scores[-1].right["test"][-1, task]) == int(right.sum())


@pytest.mark.parametrize("name", ["finetune", "er", "ewc", "l2p", "ease"])
@pytest.mark.parametrize("at_a_time", [2, 3])
def test_clients_that_train_together_learn_what_they_learn_alone(
    tiny_bert, name, at_a_time, monkeypatch
):
    # Rows that go through the model are counted where they are rows.
    monkeypatch.setattr(TokenPositions, "of", lambda *_, **__: None)

    def gone(backbone, at_a_time):
        memory = policy_class("reservoir")(8) if name == "er" else None
        settings = SMALL.get(name, {})
        server = Small(name, backbone, memory=memory, **settings).go(at_a_time).run.server
        assert not server.traffic.refused
        return server

    rows = []
    counting = tiny_bert.model.register_forward_hook(lambda _, __, out: rows.append(len(out[0])))
    alone = gone(tiny_bert, 1)
    forwards_alone, all_rows = len(rows), sum(rows)
    rows.clear()
    packed = gone(shared(tiny_bert), at_a_time)
    counting.remove()
    assert sum(rows) == all_rows
    assert len(rows) < forwards_alone
    torch.testing.assert_close(dict(packed.global_state.tensors), dict(alone.global_state.tensors))
    for mine, theirs in zip(packed.scores, alone.scores, strict=True):
        assert all(torch.equal(mine.right[part], theirs.right[part]) for part in mine.right)


FEDERATED = [
    name
    for name in OF_CLASSES
    if misfit(name, strategy_class(name), kind_of(strategy_class(name)) is not None) is None
]


@pytest.mark.parametrize("name", FEDERATED)
def test_every_strategy_that_can_be_federated_goes_through_a_stream(tiny_bert, name):
    memory = policy_class("reservoir")(8) if strategy_class(name).needs_memory else None
    small = Small(name, tiny_bert, memory=memory, **SMALL.get(name, {})).go()
    assert not small.run.server.traffic.refused
    assert [each.step for each in small.run.server.scores] == [0, 1, 2]
    assert all(each.isfinite().all() for each in small.run.server.global_state.tensors.values())


def _parts(stream):
    return [each.train for each in stream.experiences]


def test_clients_at_own_tasks_are_refused_an_adapter_that_the_server_does_not_know(tiny_bert):
    with pytest.raises(InputError, match="in step"):
        Small("olora", tiny_bert, arrival=Periodic(order="own", spread=0.4)).go()


def test_replay_at_a_client_sees_its_own_rows_only(tiny_bert):
    small = Small("er", tiny_bert, memory=policy_class("reservoir")(8)).go()
    for client, state in small.client_states.items():
        mine = small.manifest.rows(client, "train")
        assert len(state.memory["ids"]) > 0
        assert torch.isin(state.memory["ids"], mine).all()


def test_fedprox_adds_the_gradient_of_its_term(tiny_bert):
    model = AdaptedModel(tiny_bert, LoRA(rank=2), 0)
    model.grow_head(2)
    strategy = strategy_class("finetune")()
    start = {name: each.detach() - 1 for name, each in model.parameters().items()}
    held = Corrected(strategy, start, mu=0.5)
    gradients = {name: torch.zeros_like(each) for name, each in model.parameters().items()}
    for each in held.adjust(model, gradients, []).values():
        torch.testing.assert_close(each, torch.full_like(each, 0.5))


def test_a_strong_fedprox_keeps_clients_where_they_began(tiny_bert):
    def moved(drift):
        small = Small("finetune", tiny_bert, drift=drift)
        small.setup.training = replace(TRAINING, optimizer="sgd", momentum=0.0)
        small.go()
        return sum(
            float(each.norm())
            for n, each in small.run.server.global_state.tensors.items()
            if "B" in n
        )

    assert moved(DriftSettings("fedprox", mu=50.0)) < moved(DriftSettings())


@pytest.mark.parametrize("optimiser", [None, FedAvgM(momentum=0.5)])
def test_scaffold_keeps_control_variates_at_both_ends(tiny_bert, optimiser):
    drift = DriftSettings("scaffold")
    small = Small("finetune", tiny_bert, drift=drift, optimiser=optimiser)
    small.setup.training = replace(TRAINING, optimizer="sgd", momentum=0.0)
    small.go()
    shared = small.run.server.global_state.controls
    for name, each in shared.items():
        own = [each.control[name] for each in small.client_states.values()]
        torch.testing.assert_close(each, torch.stack(own).mean(dim=0), atol=1e-5, rtol=1e-4)
    assert shared
    assert not small.run.server.traffic.refused


HIDDEN = PrivacySettings(unit="example", clip=0.5, noise_multiplier=1.0)


def test_rows_are_hidden_in_what_their_client_sends(tiny_bert):
    pytest.importorskip("opacus")
    small = [Small("finetune", tiny_bert, privacy=each).go() for each in (None, HIDDEN, HIDDEN)]
    open_, hidden, again = (each.run.server for each in small)
    assert hidden.global_state.digest() == again.global_state.digest()
    assert hidden.global_state.digest() != open_.global_state.digest()
    assert all("loss" in each.metrics for each in small[0].updates)
    assert not any(each.metrics for each in small[1].updates)
    epsilon = hidden.budgets.epsilon
    assert epsilon == max(hidden.budgets.of_rows.by_client().values()) > 0
    # A row is in one task, so three tasks cost what the dearest costs.
    assert epsilon < 1.5 * first_task_epsilon(tiny_bert)


def first_task_epsilon(backbone):
    small = Small("finetune", backbone, privacy=HIDDEN)
    while small.run.server.version < 2:
        work = small.run.work()
        replies = [small.reply(work.entry, item) for item in work.items]
        small.run.apply(work, replies, DownloadSizes(0, 0))
    return small.run.server.budgets.epsilon


@pytest.mark.parametrize("drift", ["fedprox", "scaffold"])
def test_what_holds_clients_together_goes_with_hidden_rows(tiny_bert, drift):
    pytest.importorskip("opacus")
    small = Small("finetune", tiny_bert, drift=DriftSettings(drift), privacy=HIDDEN).go()
    assert not small.run.server.traffic.refused
    assert small.run.server.budgets.epsilon > 0


def test_rare_classes_of_a_client_are_not_in_what_it_says(tiny_bert):
    rule = PrivacySettings(summaries=ReleaseRule(min_rows=2))
    open_ = Small("ncm", tiny_bert).go()
    closed = Small("ncm", tiny_bert, privacy=rule).go()
    left_out = 0
    for before, after in zip(open_.updates, closed.updates, strict=True):
        count = before.summaries["count"]
        left_out += int((count == 1).sum())
        assert torch.equal(after.summaries["count"], torch.where(count < 2, 0, count))
        assert after.num_rows == after.summaries["count"].sum()
    assert left_out > 0


def test_a_task_of_which_nothing_may_be_said_ends_the_run_with_the_reason(tiny_bert):
    rule = PrivacySettings(summaries=ReleaseRule(min_rows=100))
    with pytest.raises(InputError, match="min_rows"):
        Small("ncm", tiny_bert, privacy=rule).go()


@pytest.mark.parametrize("name", ["ncm", "simplecil", "slda", "ranpac", "fecam", "ewc"])
def test_sums_behind_noise_are_accounted_for_with_the_steps(tiny_bert, name):
    pytest.importorskip("opacus")
    noisy = replace(HIDDEN, summaries=ReleaseRule(noise_multiplier=2.0, clip=1.0))
    small = Small(name, tiny_bert, privacy=noisy, **SMALL.get(name, {})).go()
    assert not small.run.server.traffic.refused
    times = previews(strategy_class(name)) + reviews(strategy_class(name))
    spent = Accountant(1e-5)
    spent.spend(Release(2.0), times)
    if name == "ewc":
        assert small.run.server.budgets.epsilon > spent.epsilon()
    else:
        assert small.run.server.budgets.epsilon == spent.epsilon()


def test_who_has_no_budget_left_for_its_sums_says_nothing(tiny_bert):
    pytest.importorskip("opacus")
    rule = ReleaseRule(noise_multiplier=2.0)
    poor = replace(HIDDEN, clip=None, max_epsilon=1.0, summaries=rule)
    with pytest.raises(InputError, match="max_epsilon"):
        Small("ncm", tiny_bert, privacy=poor).go()


@dataclass
class Leaky(Strategy):
    """Says of a task what it should not."""

    what: str = "features"

    family, paper, year = "baseline", "None", 2026

    def step(self, model, batch, replay):
        return StepOutput(model(batch.inputs).logits.square().mean())

    def review(self, model, batch):
        features = model(batch.inputs).features.detach()
        match self.what:
            case "features":
                return Summary({"features": features})
            case "padded":
                return Summary({f"feature {len(features)}": features.sum(dim=0)})
            case "tokens":
                return Summary({"tokens": batch.inputs["input_ids"].sum(dim=0)})
            case _:
                return Summary({"count": torch.ones(1)}, {"features": features})


@pytest.mark.parametrize("what", ["features", "padded", "tokens", "rows"])
def test_a_strategy_that_would_send_rows_is_stopped_at_the_client(tiny_bert, what):
    small = Small("finetune", tiny_bert, review=True)
    small.setup.strategy = Leaky(what)
    with pytest.raises(InputError, match="may not leave"):
        small.go()
    assert all(each.phase == "both" for each in small.updates)


def test_who_says_something_else_than_the_server_declared_is_refused(tiny_bert):
    small = Small("ncm", tiny_bert)
    honest, run = small.reply, small.run

    def reply(entry, item):
        found = honest(entry, item)
        if entry.kind == "review" and item.client == 1:
            sums = {name: each[:1] for name, each in found.update.summaries.items()}
            return replace(found, update=replace(found.update, summaries=sums))
        return found

    small.reply = reply
    small.go()
    assert run.server.traffic.refused == {"shape": len(run.server.scores)}


def test_clients_that_diverge_are_counted_and_the_round_goes_on(tiny_bert):
    small = Small("finetune", tiny_bert)
    honest = small.setup.training
    wild = replace(honest, optimizer="sgd", learning_rate=1e30)

    def train_as(client):
        small.setup.training = wild if client == 1 else honest

    reply = small.reply
    small.reply = lambda entry, item: (train_as(item.client), reply(entry, item))[1]
    small.go()
    assert small.run.server.traffic.refused == {"not finite": 6}
    assert small.run.server.traffic.included.tolist() == [6, 0, 6]
    assert all(each.isfinite().all() for each in small.run.server.global_state.tensors.values())


def test_what_a_client_knows_before_the_others_are_averaged_in_is_asked_in_the_last_round(
    tiny_bert,
):
    small = Small("finetune", tiny_bert)
    asked = []
    honest = small.reply

    def reply(entry, item):
        found = honest(entry, item)
        if entry.kind == "train":
            asked.append((entry.round % 2 == 1, bool(found.flags)))
        return found

    small.reply = reply
    small.go()
    assert set(asked) == {(False, False), (True, True)}
    metrics = summaries_of(small.run)
    drops = [
        accuracy - float(scores.right["test"][client, step] / scores.asked["test"][client, step])
        for step, scores in enumerate(small.run.server.scores)
        for client, task, accuracy in _told(scores, "test")
        if task == step
    ]
    assert len(drops) == sum(len(_told(scores, "test")) for scores in small.run.server.scores) > 3
    assert metrics["test/clients/spatial_forgetting"] == pytest.approx(sum(drops) / len(drops))


def _told(scores, part):
    return [(int(c), int(t), accuracy) for c, t, accuracy in scores.alone[part].tolist()]


def test_a_single_clients_model_loses_nothing_in_the_average(tiny_bert):
    small = Small("finetune", tiny_bert)
    small.run = FederatedRun(replace(small.run.settings, participants=Participants(1)))
    small.go()
    for scores in small.run.server.scores:
        for local, served in scores.spatial_forgetting("test"):
            assert local == served


def test_what_a_strategy_answers_only_after_its_review_is_not_asked_before(tiny_bert):
    small = Small("slca", tiny_bert).go()
    assert "test/clients/spatial_forgetting" not in summaries_of(small.run)

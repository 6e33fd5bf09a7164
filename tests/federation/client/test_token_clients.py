"""Clients whose rows are answered in tokens, against one learner that sees all rows."""

from functools import partial
from itertools import product

import pytest
import torch

from federated import whole_update
from lamina.adapters.kinds.lora import LoRA
from lamina.federation.aggregators import aggregator_class
from lamina.federation.client.client import ClientWork
from lamina.federation.client.client_state import ClientState
from lamina.federation.client.correction import DriftSettings
from lamina.federation.client.setup import ClientSetup
from lamina.federation.server.clock import ClockSettings, Participants
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.state import Scaling
from lamina.federation.timetable import timetable
from lamina.federation.update import modules_of
from lamina.federation.work import Download, DownloadSizes, LocalWork, Reply
from lamina.losses import cross_entropy
from lamina.strategies import strategy_class
from lamina.streams.arrivals.in_step import InStep
from lamina.streams.dealing import make_manifest
from lamina.streams.partitioners.iid import Iid
from lamina.training.settings import TrainingSettings
from language_models import UNEVEN, calls_stream, language_backbone

RATE = 0.5
TRAINING = TrainingSettings(epochs=1, batch_size=100, optimizer="sgd", learning_rate=RATE)


def reply(run, work, entry, item, updates):
    state = run.server.state_of(item.version)
    download = Download(state, state.digest(), run.server.shared_model)
    if entry.kind in ("begin", "end"):
        crossed = work.boundaries.cross(download, item.task, run.server.summary, end=False)
        return Reply(boundary=crossed)
    if item.client is None:
        return Reply(declared=work.boundaries.declared(download, item.task, end=False))
    if entry.kind == "train":
        update, _ = work.training.train(download, item, ClientState())
        updates.append(update)
    else:
        update = work.boundaries.summarise(download, item, end=False)
    return Reply(update, 1, flags={})


@pytest.mark.parametrize(
    ("name", "model"),
    [
        *product(["fedit", "ffa_lora", "flora", "fedex_lora"], ["llama", "t5"]),
        *product(["fedit"], ["qwen2", "gpt2"]),
    ],
)
def test_a_step_of_all_clients_is_the_step_of_one_that_sees_all_tokens(name, model, tmp_path):
    backbone = language_backbone(model, tmp_path)
    stream = calls_stream(backbone, UNEVEN)
    manifest = make_manifest(stream, 3, Iid(), InStep(), seed=0)
    entries = timetable(manifest, strategy_class("finetune"), True, rounds=1)
    setup = ClientSetup(
        strategy=strategy_class("finetune")(),
        adapter=LoRA(rank=4),
        memory=None,
        training=TRAINING,
        local=LocalWork(epochs=1),
        aggregator=aggregator_class(name)(),
        seed=0,
        stream=stream,
        manifest=manifest,
        in_step=any(entry.kind == "end" for entry in entries),
        backbone=backbone,
        drift=DriftSettings(),
        privacy=None,
    )
    work = ClientWork.of(setup)
    run = FederatedRun(
        RunSettings(
            manifest=manifest,
            timetable=entries,
            aggregator=setup.aggregator,
            optimiser=None,
            participants=Participants(3),
            clock=ClockSettings(),
            local=LocalWork(epochs=1),
            batch_size=100,
            seed=0,
            scaling=Scaling(LoRA(rank=4).alpha, 1.0),
            ranks=(),
            personal=False,
            ids={
                (part, index): each.part(part).ids.sort().values
                for index, each in enumerate(stream.experiences)
                for part in ("validation", "test")
            },
            controls=False,
            row_privacy=None,
        )
    )
    updates = []
    while not updates:
        todo = run.work()
        if todo.entry.kind == "train":
            before = run.server.global_state
            start = {key: each.clone() for key, each in before.tensors.items()}
            ledger = {key: each.clone() for key, each in before.ledger.items()}
        answers = map(partial(reply, run, work, todo.entry, updates=updates), todo.items)
        run.apply(todo, list(answers), DownloadSizes(0, 0))
    rows = stream.experiences[0].train
    assert sum(each.num_rows for each in updates) == rows.num_terms() > len(rows)
    whole, _ = setup.loaded_model(run.server.shared_model, start, ledger)
    loss = cross_entropy(whole(rows.inputs).logits, rows.labels)
    loss.backward()
    state = run.server.global_state
    for module in modules_of(start):
        path = module.removeprefix("main.")
        a, b = (whole.adapters["main"].tensors[f"{path}.lora_{each}.weight"] for each in "AB")
        assert b.grad.abs().max() > 0
        expected = state.scaling(len(a)) * (b - RATE * b.grad).double() @ a.double()
        torch.testing.assert_close(
            whole_update(state, module), expected.detach(), atol=1e-7, rtol=1e-3
        )

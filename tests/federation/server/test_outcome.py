"""What a federated run reached, where clients have an order and a pace of their own."""

import pytest
import torch

from lamina.core import PARTS
from lamina.federation.server.outcome import client_matrix, global_matrix
from lamina.federation.server.scores import EVALUATED, Scores
from lamina.streams.arrivals.in_step import InStep
from lamina.streams.arrivals.periodic import Periodic
from lamina.streams.dealing import make_manifest
from lamina.streams.partitioners.iid import Iid
from nouns import nouns_stream

CLIENTS = 3


def scores_of(manifest, number):
    """So many steps, in each of which a tenth fewer of every task's rows are right."""
    asked = {}
    for place, part in enumerate(EVALUATED):
        counts = manifest.counts[:, :, 1 + place]
        asked[part] = torch.cat([counts, counts.sum(dim=0, keepdim=True)])
    return [
        Scores(step, {part: n * (10 - step) / 10 for part, n in asked.items()}, asked)
        for step in range(number)
    ]


def test_clients_in_step_have_the_matrix_of_one_learner(tiny_bert):
    manifest = make_manifest(nouns_stream(tiny_bert), CLIENTS, Iid(), InStep(), seed=0)
    matrix = global_matrix(scores_of(manifest, len(manifest.tasks)), manifest, "test")
    assert matrix.learned == list(range(len(manifest.tasks)))
    # Each task falls by a tenth of its rows in every later step.
    later = [len(manifest.tasks) - 1 - task for task in matrix.learned]
    assert matrix.forgetting() == pytest.approx(sum(later[:-1]) / 10 / len(later[:-1]))


def test_clients_at_their_own_pace_have_more_steps_than_tasks_and_every_summary(tiny_bert):
    arrival = Periodic(order="own", spread=0.5, period=2.0)
    manifest = make_manifest(nouns_stream(tiny_bert), CLIENTS, Iid(), arrival, seed=0)
    times = [delivery.time for client in range(CLIENTS) for delivery in manifest.deliveries(client)]
    scores = scores_of(manifest, int(max(times)) + 1)
    assert len(scores) > len(manifest.tasks)
    for part in PARTS[1:]:
        found = global_matrix(scores, manifest, part).summaries()
        last = len(scores) - 1
        assert found["average_accuracy"] == pytest.approx(1 - last / 10)
        first = global_matrix(scores, manifest, part).learned
        drops = [(last - own) / 10 for own in first if own < last]
        assert found["forgetting"] == pytest.approx(sum(drops) / len(drops))
        assert client_matrix(scores, manifest, part).summaries()

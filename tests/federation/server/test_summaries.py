"""Summaries of clients against the same rows in one place, with the strategies' own hooks."""

import pytest
import torch

from federated import update
from lamina.core import Batch
from lamina.federation.server.summaries import summed
from lamina.federation.update import gram_name
from nouns import make_learner, nouns_stream


@pytest.fixture(scope="module")
def stream(tiny_bert):
    return nouns_stream(tiny_bert)


def federated(name, stream, backbone):
    """A strategy that never saw a row: what its clients reviewed of their own thirds, task by
    task, is all it is told."""
    learner = make_learner(name, stream, backbone, adapter=None)
    model, strategy = learner.model, learner.strategy
    strategy.setup(model)
    for experience in stream.experiences:
        model.grow_head(max(experience.task.classes) + 1)
        strategy.begin_task(model, experience.task, None)
        shares = [experience.train[slice(client, None, 3)] for client in range(3)]
        reviews = [strategy.review(model, share) for share in shares]
        updates = [
            update(f"client_{i}", {}, len(share), phase="both", summaries=review.sums)
            for i, (share, review) in enumerate(zip(shares, reviews, strict=True))
        ]
        strategy.end_task(model, experience.task, summed(updates[::-1]))
    return learner


@pytest.mark.parametrize("name", ["ranpac", "simplecil", "ncm", "fecam"])
def test_three_clients_of_disjoint_rows_are_as_good_as_one_place(name, stream, tiny_bert):
    apart = federated(name, stream, tiny_bert)
    central = make_learner(name, stream, tiny_bert, adapter=None)
    list(central.learn())
    rows = Batch.cat([each.test for each in stream.experiences])
    found, expected = (
        each.strategy.predict(each.model, rows.inputs, None) for each in (apart, central)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))


def test_the_sums_of_ranpac_are_the_central_ones(stream, tiny_bert):
    apart = federated("ranpac", stream, tiny_bert).strategy.state
    central = make_learner("ranpac", stream, tiny_bert, adapter=None)
    list(central.learn())
    state = central.strategy.state
    assert apart["ridge"] == state["ridge"]
    for name, value in state["sums"].items():
        torch.testing.assert_close(apart["sums"][name], value, rtol=1e-5, atol=1e-4)


def test_a_client_that_met_fewer_classes_adds_nothing_to_the_others():
    few = {"count": torch.ones(2), "cross": torch.ones(3, 2)}
    many = {"count": torch.ones(4), "cross": torch.ones(3, 4)}
    found = summed([update("a", {}, summaries=few), update("b", {}, summaries=many)])
    assert found["count"].tolist() == [2, 2, 1, 1]
    assert found["cross"].tolist() == [[2, 2, 1, 1]] * 3
    assert found["count"].dtype == torch.float32


def test_what_the_aggregation_needs_for_itself_is_left_out():
    sums = {"count": torch.ones(2), gram_name("main.0.query"): torch.ones(1)}
    found = summed([update("a", {}, summaries=sums), update("b", {})])
    assert found.sums.keys() == {"count"}
    assert summed([update("b", {})]) is None


def test_the_order_of_arrival_changes_no_byte():
    generator = torch.Generator().manual_seed(0)
    updates = [
        update(f"c{i}", {}, summaries={"total": torch.randn(50, generator=generator)})
        for i in range(9)
    ]
    assert torch.equal(summed(updates)["total"], summed(updates[::-1])["total"])

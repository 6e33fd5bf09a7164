"""Stale updates, rebased."""

import torch

from federated import head, started, update
from lamina.federation.aggregators import aggregator_class
from lamina.federation.server.staleness import discount, rebased
from lamina.federation.state import GlobalState


def test_the_mean_of_rebased_updates_is_fedbuffs_step():
    start, now = started(seed=1).tensors, started(seed=2).tensors
    older = started(seed=3).tensors
    sent = [update("a", started(seed=4).tensors), update("b", started(seed=5).tensors)]
    moved = [
        rebased(sent[0], start, now, discount(1)),
        rebased(sent[1], older, now, discount(3)),
    ]
    after = aggregator_class("fedit")().aggregate(GlobalState(now), moved)
    for name, x in now.items():
        step = 2**-0.5 * (sent[0].tensors[name] - start[name])
        step = step + 0.5 * (sent[1].tensors[name] - older[name])
        torch.testing.assert_close(after.tensors[name], x + step / 2, rtol=1e-5, atol=1e-5)


def test_a_fresh_update_stays_itself():
    start = started().tensors
    sent = update("a", started(seed=4).tensors)
    found = rebased(sent, start, start, discount(0))
    for name, x in sent.tensors.items():
        torch.testing.assert_close(found.tensors[name], x)


def test_classes_that_are_new_to_the_server_or_the_client_come_through():
    start, now = head(0, 2), head(1, 3)
    sent = update("a", {**head(2, 4), "new.x": torch.ones(1)})
    found = rebased(sent, start, now, 0.5).tensors
    assert torch.equal(found["head.bias"][2:], sent.tensors["head.bias"][2:])
    expected = now["head.bias"][:2] + 0.5 * (sent.tensors["head.bias"][:2] - start["head.bias"])
    torch.testing.assert_close(found["head.bias"][:2], expected)
    assert torch.equal(found["new.x"], sent.tensors["new.x"])

"""LoRM against least squares on the clients' own inputs."""

import pytest
import torch

from federated import started, update
from lamina.core import generator_of
from lamina.federation.aggregators import aggregator_class
from lamina.federation.state import GlobalState
from lamina.federation.update import LORA_A, LORA_B, gram_name

MODULE = "main.0.query"


def rounds(round, num_inputs=20, rows=(3, 7, 5)):
    """A state of one module, and clients that moved the factor of the round within the span of
    their inputs."""
    start = {n: x for n, x in started().tensors.items() if n.startswith(MODULE)}
    state = GlobalState(start)
    aggregator = aggregator_class("lorm")()
    part = MODULE + (LORA_B if aggregator.phase(round) == "b" else LORA_A)
    generator = generator_of(0, "lorm", round)
    updates, inputs = [], []
    for i, count in enumerate(rows):
        x = torch.randn(num_inputs, 6, generator=generator)
        change = torch.randn(start[part].shape, generator=generator)
        if part.endswith(LORA_A):
            change = change @ torch.linalg.pinv(x) @ x
        updates.append(
            update(
                f"c{i}",
                {part: start[part] + change},
                count,
                phase=aggregator.phase(round),
                summaries={gram_name(MODULE): x.double().T @ x.double()},
            )
        )
        inputs.append(x.double())
    return aggregator, state, part, updates, inputs


@pytest.mark.parametrize("round", [0, 1])
def test_the_merged_factor_is_the_least_squares_one(round):
    aggregator, state, part, updates, inputs = rounds(round)
    a = state.tensors[MODULE + LORA_A].double()
    read = [x @ a.T if part.endswith(LORA_B) else x for x in inputs]
    wanted = [x @ u.tensors[part].double().T for x, u in zip(read, updates, strict=True)]
    expected = torch.linalg.lstsq(torch.cat(read), torch.cat(wanted)).solution.T
    after = aggregator.aggregate(state, updates)
    torch.testing.assert_close(after.tensors[part], expected.float(), rtol=1e-5, atol=1e-5)


def test_outside_the_span_of_the_inputs_the_global_factor_stays():
    aggregator, state, part, updates, inputs = rounds(1, num_inputs=1, rows=(2, 2))
    after = aggregator.aggregate(state, updates)
    seen = torch.cat(inputs)
    unseen = torch.eye(6, dtype=torch.float64) - torch.linalg.pinv(seen) @ seen
    found, before = (each.tensors[part].double() @ unseen for each in (after, state))
    assert before.norm() > 1
    torch.testing.assert_close(found, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("round", [0, 1])
def test_clients_that_agree_are_agreed_with(round):
    aggregator, state, part, updates, _ = rounds(round)
    same = [update(u.client, updates[0].tensors, 1, summaries=u.summaries) for u in updates]
    after = aggregator.aggregate(state, same)
    torch.testing.assert_close(after.tensors[part], updates[0].tensors[part], rtol=1e-5, atol=1e-5)

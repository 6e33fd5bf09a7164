"""What strategies do in a step, seen from the noise that is to hide the step's rows."""

import pytest
import torch

from lamina.federation.fitness import misfit, previews, reviews
from lamina.strategies import strategy_class
from lamina.training.checkpoint import pack
from nouns import NO_REPLAY, OF_CLASSES, after, as_scenario, nouns_stream


def hides_rows(name):
    cls = strategy_class(name)
    looks = previews(cls) or reviews(cls) or cls.needs_memory
    has_adapter = cls.adapters is None or cls.adapters != ("none",)
    return (
        not looks
        and misfit(name, cls, has_adapter) is None
        and cls.takes_gradient_steps(has_adapter)
    )


STRATEGIES = [name for name in OF_CLASSES if hides_rows(name)]


def test_there_are_strategies_whose_rows_can_be_hidden():
    assert {"finetune", "l2p", "lwf"} <= set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_leaves_no_trace_of_its_rows_but_in_the_gradient(tiny_bert, name):
    stream = as_scenario(nouns_stream(tiny_bert), strategy_class(name).scenarios[0])
    learner, rows = after(1, name, stream, tiny_bert)
    every = {
        f"{group}.{key}": tensor
        for group, adapter in learner.model.adapters.items()
        for key, tensor in adapter.tensors.items()
    }
    tensors = {key: tensor.detach().clone() for key, tensor in every.items()}
    state = pack(learner.strategy.state)
    output = learner.strategy.step(learner.model, rows[:1], NO_REPLAY)
    assert output.loss.requires_grad
    assert not output.references
    assert pack(learner.strategy.state) == state
    assert all(torch.equal(every[key], before) for key, before in tensors.items())

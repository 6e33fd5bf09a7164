"""InfLoRA: its losses, state and answers against naive versions."""

import numpy as np
import torch

from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.succession import PAST, current
from lamina.memory.subspace import recalled
from lora_cases import a_of, descend
from nouns import after, make_learner


def test_inflora_reads_the_leading_directions_that_are_free(nouns, tiny_bert):
    learner, data = after(1, "inflora", nouns, tiny_bert, threshold=0.9)
    new = current(learner.model).tensors
    modules = modules_of(new)
    inputs = learner.model.inputs_at(data.inputs, modules, adapters=[PAST])
    for module in modules:
        x = inputs[module].double().numpy()
        kept = recalled(learner.strategy.state["subspaces"], module, torch.eye(32))
        taken = np.eye(32) - kept.outside(torch.eye(32)).double().numpy()
        free = x.T @ x - taken @ x.T @ x
        left = np.linalg.svd(free)[0][:, :8]
        rows = a_of(new, module).double().numpy()
        np.testing.assert_allclose(3 * rows.T @ rows, left @ left.T, atol=1e-3)
        np.testing.assert_allclose(rows @ taken, 0, atol=1e-5)


def test_inflora_trains_b_and_the_head_alone(nouns, tiny_bert):
    learner, data = after(1, "inflora", nouns, tiny_bert, threshold=0.5)
    trained = set(learner.model.parameters())
    assert trained
    assert all(".lora_B." in name or name.startswith("head.") for name in trained)
    before = {k: v.clone() for k, v in current(learner.model).tensors.items()}
    descend(learner, data)
    for name, value in current(learner.model).tensors.items():
        assert torch.equal(value, before[name]) == (".lora_A." in name)


def test_inflora_threshold_keeps_the_outputs_of_old_inputs(nouns, tiny_bert):
    old = nouns.experiences[0].train

    def moved(threshold):
        settings = {"threshold": threshold, "last_threshold": threshold}
        learner, data = after(1, "inflora", nouns, tiny_bert, **settings)
        before = learner.model(old.inputs).features
        descend(learner, data)
        new = current(learner.model).tensors
        a = torch.cat([a_of(new, module) for module in modules_of(new)])
        return (learner.model(old.inputs).features - before).abs().mean(), a

    free, a = moved(0.0)
    torch.testing.assert_close(a.norm(dim=1), torch.full((len(a),), 3**-0.5))
    held, _ = moved(1.0)
    assert held < 0.1 * free


def test_inflora_threshold_climbs_with_the_tasks(nouns, tiny_bert):
    def sizes(last):
        learner = make_learner(
            "inflora", nouns, tiny_bert, threshold=0.5, last_threshold=last, num_tasks=3
        )
        list(learner.learn())
        kept = learner.strategy.state["subspaces"].values()
        return sum(len(each["basis"].T) for each in kept if not each["is_complement"])

    assert sizes(0.99) > sizes(0.5)

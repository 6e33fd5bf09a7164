"""A-GEM: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from classic_cases import flat, replay_of, second_task_drift
from lamina.strategies.agem import projected
from nouns import after, logits_of


def test_agem_projects_only_where_the_memory_speaks_against_the_step():
    gradient = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    against = {"a": torch.tensor([-1.0, 1.0]), "b": torch.tensor([[-2.0]])}
    moved = projected(gradient, against)
    g, r = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 1.0, -2.0])
    expected = g - (g @ r) / (r @ r) * r
    torch.testing.assert_close(flat(moved, "ab"), expected)
    assert (flat(moved, "ab") @ r).abs() < 1e-6
    with_it = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([[1.0]])}
    assert projected(gradient, with_it) is gradient


def test_agem_projects_parts_that_only_one_of_the_gradients_has():
    moved = projected({"a": torch.tensor([1.0])}, {"a": torch.tensor([-1.0]), "b": torch.ones(1)})
    torch.testing.assert_close(flat(moved, "ab"), torch.tensor([0.5, 0.5]))


def test_agem_reference_is_the_loss_on_exemplars(nouns, tiny_bert):
    learner, data = after(1, "agem", nouns, tiny_bert, replay_size=5)
    output = learner.strategy.step(learner.model, data, replay_of(learner))
    exemplars = replay_of(learner).draw(5)
    naive = F.cross_entropy(logits_of(learner, exemplars), exemplars.labels)
    torch.testing.assert_close(output.references[0], naive, atol=1e-5, rtol=1e-5)
    plain = F.cross_entropy(logits_of(learner, data), data.labels)
    torch.testing.assert_close(output.loss, plain)


def test_agem_without_exemplars_is_finetune(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("agem", nouns, tiny_bert, replay_size=0) == free
    assert second_task_drift("agem", nouns, tiny_bert) != free

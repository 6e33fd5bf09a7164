"""DER++: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from classic_cases import learn_on, replay_of, second_task_drift, shaken
from lamina.strategies.der_pp import logits_error
from nouns import after, logits_of


def test_der_pp_holds_one_draw_to_its_logits_and_another_to_its_labels(nouns, tiny_bert):
    learner, data = after(2, "der_pp", nouns, tiny_bert, alpha=0.7, beta=0.4, replay_size=6)
    shaken(learner)
    dark, labelled = (replay_of(learner).draw(6, name) for name in ("logits", "labels"))
    assert dark.ids.tolist() != labelled.ids.tolist()
    squares = []
    for now, then in zip(logits_of(learner, dark), dark.extras["logits"], strict=True):
        known = [0.0 if each.isnan() else each for each in then]
        known += [0.0] * (len(now) - len(known))
        squares += [(a - b) ** 2 for a, b in zip(now, known, strict=True)]
    naive = F.cross_entropy(logits_of(learner, data), data.labels)
    naive = naive + 0.7 * torch.stack(squares).mean()
    naive = naive + 0.4 * F.cross_entropy(logits_of(learner, labelled), labelled.labels)
    loss = learner.strategy.step(learner.model, data, replay_of(learner)).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-5)


def test_der_pp_keeps_the_logits_of_the_classes_that_were_known_then(nouns, tiny_bert):
    learner, _ = after(1, "der_pp", nouns, tiny_bert)
    memory = learner.memory
    then = logits_of(learner, learner.rows(memory.ids))[:, :2]
    torch.testing.assert_close(memory.extras["logits"], then.detach(), atol=1e-5, rtol=1e-5)
    learner, _ = after(2, "der_pp", nouns, tiny_bert)
    stored, labels = learner.memory.extras["logits"], learner.memory.labels
    assert torch.equal(stored.isnan().sum(dim=1), torch.where(labels < 2, 2, 0))


def test_der_pp_error_takes_what_was_not_stored_for_zero():
    stored = torch.tensor([[1.0, float("nan")], [2.0, 5.0]])
    logits = torch.tensor([[3.0, 9.0, 9.0], [2.0, 4.0, 9.0]], requires_grad=True)
    error = logits_error(logits, stored)
    assert error.item() == pytest.approx((4 + 81 + 81 + 0 + 1 + 81) / 6)
    error.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 1] == pytest.approx(2 * 9 / 6)


def test_der_pp_of_no_weights_is_finetune_and_of_great_alpha_keeps_old_logits(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("der_pp", nouns, tiny_bert, alpha=0.0, beta=0.0) == free

    def far(alpha):
        learner, data = after(1, "der_pp", nouns, tiny_bert, alpha=alpha, beta=0.0)
        learn_on(learner, data)
        now = logits_of(learner, learner.rows(learner.memory.ids))
        return logits_error(now, learner.memory.extras["logits"])

    assert far(10.0) < 0.5 * far(0.0)

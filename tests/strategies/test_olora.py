"""O-LoRA: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.strategies.olora import PAST
from nouns import NO_REPLAY, after, logits_of


def test_olora_pays_for_every_overlap_of_rows_with_the_past(nouns, tiny_bert):
    learner, data = after(
        2, "olora", nouns, tiny_bert, orthogonality=0.7, shrinkage=0.2, scale="paper"
    )
    model = learner.model
    past, current = model.adapters[PAST].tensors, model.adapters["task_2"].tensors
    overlap = 0.0
    for name in current:
        if "lora_A" in name:
            assert past[name].shape[0] == 16
            overlap += sum((p * c).sum().abs() for p in past[name] for c in current[name])
    norms = sum(tensor.square().sum().sqrt() for tensor in current.values())
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    plain = F.cross_entropy(logits_of(learner, data)[:, 4:6], data.labels - 4)
    naive = plain + 0.7 * overlap + 0.2 * norms
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_olora_overlap_is_a_share_of_the_largest_and_costs_that_share_of_the_loss(nouns, tiny_bert):
    learner, data = after(2, "olora", nouns, tiny_bert, orthogonality=0.7)
    model = learner.model
    past, current = model.adapters[PAST].tensors, model.adapters["task_2"].tensors
    plain = F.cross_entropy(logits_of(learner, data)[:, 4:6], data.labels - 4)
    shares = []
    for name in current:
        if "lora_A" in name:
            pairs = [(p, c) for p in past[name] for c in current[name]]
            overlap = sum((p * c).sum().abs() for p, c in pairs)
            shares.append(overlap / sum(p.norm() * c.norm() for p, c in pairs))
    naive = plain * (1 + 0.7 * torch.stack(shares).mean())
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)
    # Longer rows overlap no more: a weight means the same wherever A starts.
    learner.strategy.orthogonality = 7.0
    before = learner.strategy.step(model, data, NO_REPLAY).loss
    for name, tensor in past.items():
        if "lora_A" in name:
            past[name] = 10 * tensor
        else:
            past[name] = tensor / 10
    torch.testing.assert_close(learner.strategy.step(model, data, NO_REPLAY).loss, before)


def test_olora_keeps_the_sum_of_all_updates_and_trains_only_the_last(nouns, tiny_bert):
    learner, data = after(2, "olora", nouns, tiny_bert)
    model = learner.model
    assert model.active == [PAST, "task_2"]
    assert {name.split(".")[0] for name in model.parameters()} == {"head", "task_2"}
    past = {k: v.clone() for k, v in model.adapters[PAST].tensors.items()}
    before = model(data.inputs).features.detach()
    torch.testing.assert_close(model(data.inputs, adapters=[PAST]).features, before)
    learner.descend(learner.stream.experiences[learner.next_task].task, data)
    assert all(torch.equal(past[k], v) for k, v in model.adapters[PAST].tensors.items())


def test_olora_weight_turns_the_new_subspace_away_from_the_past(nouns, tiny_bert):
    def overlap(weight):
        learner, data = after(1, "olora", nouns, tiny_bert, orthogonality=weight)
        learner.descend(learner.stream.experiences[learner.next_task].task, data)
        step = learner.strategy.step(learner.model, data, NO_REPLAY)
        return step.metrics["overlap"]

    assert overlap(5.0) < 0.5 * overlap(0.0)

"""C-ADA: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from adapter_cases import copies, disturb, same
from lamina.adapters.kinds.bottleneck import Bottleneck
from lamina.adapters.model import HEAD
from nouns import NO_REPLAY, after, make_learner


def test_c_ada_slices_are_one_wider_layer_beside_a_scaled_and_shifted_mlp(nouns, tiny_bert):
    learner, data = after(2, "c_ada", nouns, tiny_bert)
    model = learner.model
    names = ["slice_0", "slice_1", "slice_2"]
    disturb("shift", *names, model=model, size=0.1)
    parts = [model.adapters[name].tensors for name in names]
    wide = {}
    for key in parts[0]:
        tensors = [part[key] for part in parts]
        if key.endswith("up.bias"):
            wide[key] = sum(tensors)
        else:
            wide[key] = torch.cat(tensors, dim=1 if key.endswith("up.weight") else 0)

    def scale_and_shift(layer):
        def change(module, inputs, y):
            tensors = model.adapters["shift"].tensors
            return tensors[f"{layer}.scale"] * y + tensors[f"{layer}.shift"]

        return change

    sites = tiny_bert.architecture.mlps
    hooks = [
        tiny_bert.model.get_submodule(site.write).register_forward_hook(scale_and_shift(layer))
        for layer, site in enumerate(sites)
    ]
    kind = Bottleneck(width=3 * 64, scale=model.kind.scale)
    moved = tiny_bert(data.inputs, kind.overlay(wide, tiny_bert)).features
    for hook in hooks:
        hook.remove()
    head = model.adapters[HEAD].tensors
    naive = F.linear(moved, head["weight"], head["bias"])
    answer = learner.strategy.predict(model, data.inputs, None)
    torch.testing.assert_close(answer, naive, atol=1e-5, rtol=1e-4)


def test_c_ada_pays_for_the_overlap_of_down_projections(nouns, tiny_bert):
    learner, data = after(2, "c_ada", nouns, tiny_bert, orthogonality=0.3)
    strategy, model = learner.strategy, learner.model
    penalty = 0.0
    for layer in range(2):
        new = model.adapters["slice_2"].tensors[f"{layer}.down.weight"]
        squares = 0.0
        for past in ("slice_0", "slice_1"):
            old = model.adapters[past].tensors[f"{layer}.down.weight"]
            squares += sum((a @ b).square() for a in old for b in new)
        penalty += squares.sqrt()
    plain = F.cross_entropy(strategy.predict(model, data.inputs, None)[:, 4:], data.labels - 4)
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, plain + 0.3 * penalty, atol=1e-4, rtol=1e-4)
    trained = {name.split(".")[0] for name in model.parameters()}
    assert trained == {HEAD, "slice_2"}


def test_c_ada_trains_scale_and_shift_on_the_first_task_only(nouns, tiny_bert):
    learner = make_learner("c_ada", nouns, tiny_bert)
    reports = learner.learn()
    next(reports)
    learned = copies(learner.model, "shift")
    assert (learned["0.scale"] != 1).all()
    list(reports)
    assert same(learned, copies(learner.model, "shift"))


def test_c_ada_weight_turns_the_new_slice_away_from_the_past(nouns, tiny_bert):
    def overlap(weight):
        learner, data = after(1, "c_ada", nouns, tiny_bert, orthogonality=weight)
        learner.descend(nouns.experiences[1].task, data)
        return learner.strategy.overlap(learner.model).item()

    assert overlap(5.0) < 0.7 * overlap(0.0)

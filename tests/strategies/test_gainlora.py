"""GainLoRA: its gates, their bounds and its answers against naive versions."""

import numpy as np
import torch

from lamina.backbones.overlay import Overlay
from lamina.strategies.gainlora import through_gate
from nouns import after, make_learner
from recent_prompt_cases import learned, predict

WIDE = {"hidden": 6, "gate_threshold": 0.9}


def naive_gate(feature, gate):
    inner = gate["down"] @ feature
    inner = inner * torch.sigmoid(inner)
    outer = gate["up"] @ inner
    outer = outer * torch.sigmoid(outer)
    return abs(2 / (1 + torch.exp(-(gate["last"] @ outer)[0])) - 1)


def test_gainlora_answers_under_every_lora_as_far_as_its_gate_opens(nouns, tiny_bert):
    learner, data = after(2, "gainlora", nouns, tiny_bert, **WIDE)
    learned(learner, data)
    model = learner.model
    features, rows = model.frozen_features(data.inputs), []
    for feature, one in zip(features, data.chunks(1), strict=True):
        overlay = Overlay()
        for index in range(3):
            opened = naive_gate(feature, model.adapters[f"gate_{index}"].tensors)
            tensors = {
                name: opened * tensor if "lora_B" in name else tensor
                for name, tensor in model.adapters[f"task_{index}"].tensors.items()
            }
            overlay = overlay | model.kind.overlay(tensors, tiny_bert)
        rows.append(model.under(one.inputs, overlay).logits)
    torch.testing.assert_close(predict(learner, data), torch.cat(rows), atol=1e-4, rtol=1e-4)


def test_a_new_gate_starts_as_the_last_and_closed_to_what_was_taken(nouns, tiny_bert):
    learner, _ = after(1, "gainlora", nouns, tiny_bert, **WIDE)
    first, second = (learner.model.adapters[f"gate_{index}"].tensors for index in (0, 1))
    for name in ("down", "up"):
        assert torch.equal(first[name], second[name])
    subspace = learner.strategy.state["gate_subspaces"]["last"]
    assert not subspace["is_complement"]
    overlap = second["last"] @ subspace["basis"]
    torch.testing.assert_close(overlap, torch.zeros_like(overlap), atol=1e-5, rtol=0)
    torch.testing.assert_close(second["last"].norm(), first["last"].norm(), atol=1e-4, rtol=1e-4)


def test_training_moves_no_layer_of_the_gate_along_what_earlier_inputs_took(nouns, tiny_bert):
    learner, data = after(1, "gainlora", nouns, tiny_bert, **WIDE)
    state = learner.strategy.state
    gate = learner.model.adapters["gate_1"].tensors
    before = {name: tensor.detach().clone() for name, tensor in gate.items()}
    learned(learner, data)
    for name, tensor in gate.items():
        basis = state["gate_subspaces"][name]["basis"].numpy()
        taken = basis @ basis.T
        if state["gate_subspaces"][name]["is_complement"]:
            taken = np.eye(len(taken)) - taken
        moved = (tensor - before[name]).detach().numpy()
        assert np.abs(moved @ taken).max() < 1e-5
    assert max(float((gate[k].detach() - v).abs().max()) for k, v in before.items()) > 1e-4


def test_the_bases_hold_their_share_of_what_each_layer_read(nouns, tiny_bert):
    learner, _ = after(1, "gainlora", nouns, tiny_bert, **WIDE)
    gate = learner.model.adapters["gate_0"].tensors
    features = learner.model.frozen_features(nouns.experiences[0].train.inputs)
    layers, _ = through_gate(features, gate)
    for name, x in layers.items():
        gram = (x.T @ x).detach().double().numpy()
        subspace = learner.strategy.state["gate_subspaces"][name]
        basis = subspace["basis"].double().numpy()
        inside = basis @ (basis.T @ gram)
        if subspace["is_complement"]:
            inside = gram - inside
        assert (inside**2).sum() >= 0.9 * (gram**2).sum() - 1e-6


def test_the_share_that_bases_hold_moves_what_is_learned(nouns, tiny_bert):
    def learned_by(gate_threshold):
        learner = make_learner(
            "gainlora", nouns, tiny_bert, hidden=6, gate_threshold=gate_threshold
        )
        list(learner.learn())
        return learner.model.adapters["gate_2"].tensors["down"]

    assert (learned_by(0.5) - learned_by(0.999)).abs().max() > 1e-4

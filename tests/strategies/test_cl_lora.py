"""CL-LoRA: its losses, state and answers against naive versions."""

from copy import deepcopy

import torch
import torch.nn.functional as F

from lamina.adapters.kinds.lora import modules_of
from lamina.strategies.cl_lora import SCALE, SHARED, TEACHER
from lamina.training.settings import TrainingSettings
from lora_cases import SCALE_OF_LORA, a_of, b_of, descend, merged_features, shaken, task_loss
from nouns import NO_REPLAY, after, make_learner


def test_cl_lora_shares_below_and_has_its_own_above(nouns, tiny_bert):
    learner, data = after(1, "cl_lora", nouns, tiny_bert)
    model = learner.model
    assert model.active == [SHARED, "task_1"]
    assert all("layer.0." in module for module in modules_of(model.adapters[SHARED].tensors))
    assert all("layer.1." in module for module in modules_of(model.adapters["task_1"].tensors))
    fixed = {k: v.clone() for k, v in model.adapters[SHARED].tensors.items() if "lora_A" in k}
    for a in fixed.values():
        torch.testing.assert_close(a @ a.T, torch.eye(8), atol=1e-5, rtol=0)
    old = {k: v.clone() for k, v in model.adapters["task_0"].tensors.items()}
    descend(learner, data)
    assert all(torch.equal(model.adapters[SHARED].tensors[k], v) for k, v in fixed.items())
    assert all(torch.equal(model.adapters["task_0"].tensors[k], v) for k, v in old.items())
    assert {name.split(".")[0] for name in model.parameters()} == {
        *("head", SHARED, "task_1", "mu_task_1", SCALE)
    }


def test_cl_lora_loss_and_distillation_at_the_early_exit(nouns, tiny_bert):
    learner, data = after(2, "cl_lora", nouns, tiny_bert, distillation=3.0, orthogonality=0.7)
    model, strategy = learner.model, learner.strategy
    shaken(learner)
    output = strategy.step(model, data, NO_REPLAY)

    def update(name, module, weight=1.0):
        tensors = model.adapters[name].tensors
        return SCALE_OF_LORA * weight * b_of(tensors, module) @ a_of(tensors, module)

    def lower(name):
        return {each: update(name, each) for each in modules_of(model.adapters[name].tensors)}

    mu = model.adapters["mu_task_2"].tensors["mu"]
    upper = modules_of(model.adapters["task_2"].tensors)
    own = {each: update("task_2", each, mu[i]) for i, each in enumerate(upper)}
    rows = F.normalize(model.adapters["head"].tensors["weight"])
    sigma = model.adapters[SCALE].tensors["sigma"]

    def logits(features):
        return sigma * F.normalize(features) @ rows.T

    def exit_of(name):
        changed = deepcopy(tiny_bert)
        for module, change in lower(name).items():
            changed.model.get_submodule(module).weight.data += change.detach()
        tokens = changed.model(**data.inputs, output_hidden_states=True).hidden_states[1]
        mask = data.inputs["attention_mask"][:, :, None]
        return (tokens * mask).sum(1) / mask.sum(1)

    features = merged_features(tiny_bert, data.inputs, {**lower(SHARED), **own})
    earlier = [model.adapters[f"mu_task_{i}"].tensors["mu"] for i in range(2)]
    alike = sum((m @ mu / (m.norm() * mu.norm())).abs() for m in earlier) / 2
    naive = task_loss(logits(features), data, first=4) + 0.7 * alike
    torch.testing.assert_close(output.loss, naive, atol=1e-4, rtol=1e-4)
    p = (logits(exit_of(TEACHER))[:, 4:] / 2).softmax(1)
    q = (logits(exit_of(SHARED))[:, 4:] / 2).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(output.references[0], 3.0 * divergence, atol=1e-5, rtol=1e-3)


def test_cl_lora_weighs_the_distillations_gradient_by_old_rows(nouns, tiny_bert):
    learner, data = after(1, "cl_lora", nouns, tiny_bert)
    shaken(learner)
    model, strategy = learner.model, learner.strategy
    parameters = model.parameters()

    def gradients(loss):
        found = torch.autograd.grad(
            loss, list(parameters.values()), allow_unused=True, retain_graph=True
        )
        return {k: g for k, g in zip(parameters, found, strict=True) if g is not None}

    output = strategy.step(model, data, NO_REPLAY)
    plain, kept = gradients(output.loss), gradients(output.references[0])
    total = strategy.adjust(model, plain, [kept])
    for name, gradient in kept.items():
        expected = gradient.clone()
        if name.startswith(SHARED):
            old = model.adapters[TEACHER].tensors[name.removeprefix(f"{SHARED}.")]
            sizes = [row.square().sum().sqrt() for row in old]
            for i, size in enumerate(sizes):
                expected[i] *= len(sizes) * size / sum(sizes)
        torch.testing.assert_close(total[name], plain[name] + expected, atol=1e-6, rtol=1e-4)
    assert any(name.startswith(SHARED) for name in kept)
    assert strategy.adjust(model, plain, []) == plain


def test_cl_lora_answers_with_the_nearest_mean_under_each_tasks_modules(nouns, tiny_bert):
    learner = make_learner("cl_lora", nouns, tiny_bert)
    list(learner.learn())
    model, strategy = learner.model, learner.strategy
    query = nouns.experiences[1].test
    logits = strategy.predict(model, query.inputs, None)
    last = nouns.experiences[2]
    for label in last.task.classes:
        rows = last.train.labels == label
        features, _ = strategy.features(model, last.train.inputs, [SHARED, "task_2"])
        mean = features[rows].mean(0)
        asked, _ = strategy.features(model, query.inputs, [SHARED, "task_2"])
        cosine = F.cosine_similarity(asked, mean[None])
        torch.testing.assert_close(logits[:, label], cosine, atol=1e-5, rtol=1e-4)
    told = strategy.predict(model, query.inputs, nouns.experiences[1].task)
    assert told[:, [0, 1, 4, 5]].max() == -float("inf")
    torch.testing.assert_close(told[:, 2:4], logits[:, 2:4])


def test_cl_lora_distillation_holds_the_early_exit(nouns, tiny_bert):
    def drift(weight):
        training = TrainingSettings(epochs=6, batch_size=4, learning_rate=1e-2)
        settings = {"distillation": weight, "training": training}
        learner, data = after(1, "cl_lora", nouns, tiny_bert, **settings)
        strategy, model = learner.strategy, learner.model
        descend(learner, data)
        now = strategy.features(model, data.inputs, [SHARED])[1]
        return (now - strategy.features(model, data.inputs, [TEACHER])[1]).abs().mean()

    assert drift(1e3) < 0.8 * drift(0.0)

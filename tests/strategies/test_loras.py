"""A LoRA per task, constrained, designed, scaled or shared: losses, subspaces and updates against
naive versions."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.kinds.lora import LoRA, modules_of
from lamina.adapters.succession import PAST, current
from lamina.core import generator_of
from lamina.memory.subspace import Subspace, recalled
from lamina.strategies.cl_lora import SCALE, SHARED, TEACHER
from lamina.strategies.dual_lora import ResidualPatch
from lamina.strategies.sd_lora import MAGNITUDES
from lamina.training.learner import Learner
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, logits_of, make_learner

SCALE_OF_LORA = 2.0
"""alpha / rank of the default LoRA."""


def a_of(tensors, module):
    return tensors[f"{module}.lora_A.weight"]


def b_of(tensors, module):
    return tensors[f"{module}.lora_B.weight"]


def descend(learner, data):
    learner._descend(learner.stream.experiences[learner.next_task].task, data)


def merged_features(backbone, inputs, updates):
    """Features of a copy of the backbone whose weights are changed: no LoRA anywhere."""
    changed = deepcopy(backbone)
    for module, update in updates.items():
        changed.model.get_submodule(module).weight.data += update.detach()
    return changed(inputs).features


def task_loss(logits, data, first=2):
    """Cross-entropy over the two classes from `first`."""
    return F.cross_entropy(logits[:, first : first + 2], data.labels - first)


def shaken(learner, size=0.05):
    """Noise on all that is trained, so that nothing is zero by chance."""
    with torch.no_grad():
        for name, value in learner.model.parameters().items():
            value += size * torch.randn(value.shape, generator=generator_of(0, "noise", name))


# the same start


@pytest.mark.parametrize(
    ("name", "neutral"), [("n_lora", {"sparsity": 0.0}), ("c_lora", {"strength": 0.0})]
)
def test_without_its_penalty_it_is_olora_without_its_own(name, neutral, nouns, tiny_bert):
    def run(name, **settings):
        learner = make_learner(name, nouns, tiny_bert, **settings)
        reports = list(learner.learn())
        return [report.test for report in reports], learner.model.parameters()

    rows, parameters = run(name, **neutral)
    expected_rows, expected = run("olora", orthogonality=0.0)
    assert rows == expected_rows
    assert all(torch.equal(parameters[key], expected[key]) for key in expected)


# n_lora


def test_n_lora_pays_for_every_entry_of_the_update(nouns, tiny_bert):
    learner, data = after(1, "n_lora", nouns, tiny_bert, sparsity=0.3, scale="paper")
    shaken(learner)
    new = current(learner.model).tensors
    entries = sum(
        (b_row * a_of(new, module).T).sum(1).abs().sum()
        for module in modules_of(new)
        for b_row in b_of(new, module)
    )
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = task_loss(logits_of(learner, data), data) + 0.3 * entries
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_n_lora_inner_pays_for_the_public_codes_product(nouns, tiny_bert):
    learner, data = after(
        1, "n_lora", nouns, tiny_bert, sparsity=0.3, product="inner", scale="paper"
    )
    shaken(learner)
    new = current(learner.model).tensors
    entries = sum(
        (a_row * b_column).sum().abs()
        for module in modules_of(new)
        for a_row in a_of(new, module)
        for b_column in b_of(new, module).T
    )
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = task_loss(logits_of(learner, data), data) + 0.3 * entries
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_n_lora_inner_refuses_modules_that_are_not_square(nouns, tiny_bert):
    learner = make_learner("n_lora", nouns, tiny_bert, product="inner")
    wide = Learner(
        strategy=learner.strategy,
        adapter=LoRA(targets=("intermediate.dense",)),
        memory=None,
        training=TrainingSettings(epochs=1, batch_size=4),
        seed=0,
        stream=nouns,
        backbone=tiny_bert,
    )
    with pytest.raises(ValueError, match=r"strategy\.product"):
        next(wide.learn())


@pytest.mark.parametrize("product", ["update", "inner"])
def test_n_lora_weight_makes_the_update_sparse(product, nouns, tiny_bert):
    def size(sparsity):
        settings = {"sparsity": sparsity, "product": product, "scale": "paper"}
        learner, data = after(1, "n_lora", nouns, tiny_bert, **settings)
        descend(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["l1_norm"]

    assert size(0.1) < 0.5 * size(0.0)


# c_lora


def test_c_lora_pays_for_changing_what_was_changed(nouns, tiny_bert):
    learner, data = after(2, "c_lora", nouns, tiny_bert, strength=1e4, scale="paper")
    shaken(learner)
    past, new = learner.model.adapters[PAST].tensors, current(learner.model).tensors
    overlap = 0.0
    for module in modules_of(new):
        assert a_of(past, module).shape[0] == 16
        old = sum(
            b_of(past, module)[:, block] @ a_of(past, module)[block]
            for block in (slice(0, 8), slice(8, 16))
        )
        update = b_of(new, module) @ a_of(new, module)
        for i in range(update.shape[0]):
            for j in range(update.shape[1]):
                overlap += (old[i, j].abs() * update[i, j]) ** 2
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = task_loss(logits_of(learner, data), data, first=4) + 1e4 * overlap
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("scale", "strength"), [("paper", 1e8), ("loss", 1e3)])
def test_c_lora_strength_keeps_the_update_off_changed_weights(scale, strength, nouns, tiny_bert):
    def overlap(strength):
        settings = {"strength": strength, "scale": scale}
        learner, data = after(1, "c_lora", nouns, tiny_bert, **settings)
        descend(learner, data)
        return sum(learner.strategy.overlaps(learner.model).values())

    assert overlap(strength) < 0.1 * overlap(0.0)


def test_c_lora_repeating_what_was_changed_costs_as_much_as_the_loss(nouns, tiny_bert):
    learner, data = after(1, "c_lora", nouns, tiny_bert, strength=0.7)
    past, new = learner.model.adapters[PAST].tensors, current(learner.model).tensors
    with torch.no_grad():
        for name, tensor in new.items():
            tensor.copy_(past[name])
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    plain = task_loss(logits_of(learner, data), data)
    torch.testing.assert_close(loss, 1.7 * plain, atol=1e-4, rtol=1e-4)
    learner.strategy.state["changed"] = {
        name: 100 * value for name, value in learner.strategy.state["changed"].items()
    }
    smaller = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(smaller, (1 + 0.7e-4) * plain, atol=1e-5, rtol=1e-5)


def test_n_lora_mean_entry_costs_its_size_times_the_loss(nouns, tiny_bert):
    learner, data = after(1, "n_lora", nouns, tiny_bert, sparsity=3.0)
    shaken(learner)
    new = current(learner.model).tensors
    means = [(b_of(new, each) @ a_of(new, each)).abs().mean() for each in modules_of(new)]
    plain = task_loss(logits_of(learner, data), data)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = plain * (1 + 3.0 * sum(means) / len(means))
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "weight"), [("c_lora", "strength"), ("n_lora", "sparsity")])
def test_a_relative_penalty_has_no_gradient_of_the_loss_it_is_told_in(
    name, weight, nouns, tiny_bert
):
    def head_gradient(value):
        learner, data = after(1, name, nouns, tiny_bert)
        setattr(learner.strategy, weight, value)
        shaken(learner)
        head = learner.model.parameters()["head.weight"]
        loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
        return torch.autograd.grad(loss, head)[0]

    torch.testing.assert_close(head_gradient(0.0), head_gradient(50.0))


def test_c_lora_keeps_no_full_matrix_between_tasks(nouns, tiny_bert):
    learner = make_learner("c_lora", nouns, tiny_bert)
    list(learner.learn())
    assert learner.strategy.state == {}


# subspaces


def naive_gpm(bases, matrix, threshold):
    """One update of Gradient Projection Memory, basis vector by basis vector."""
    total = (matrix**2).sum()
    basis = bases.copy()
    left, values, _ = np.linalg.svd(matrix - basis @ basis.T @ matrix)
    held = ((basis @ basis.T @ matrix) ** 2).sum()
    for direction, value in zip(left.T, values, strict=True):
        if held / total >= threshold:
            break
        basis = np.column_stack([basis, direction])
        held += value**2
    return basis


def test_dual_gpm_holds_what_gpm_holds_and_stores_the_smaller_basis():
    rng = np.random.default_rng(0)
    basis, space = np.zeros((10, 0)), Subspace(torch.zeros(10, 0))
    kinds = []
    for threshold in (0.9, 0.99, 0.999, 0.9999):
        half = rng.standard_normal((10, 3))
        matrix = half @ half.T
        basis = naive_gpm(basis, matrix, threshold)
        space = space.grown(torch.from_numpy(matrix), threshold)
        outside = space.outside(torch.eye(10, dtype=torch.float64))
        expected = np.eye(10) - basis @ basis.T
        np.testing.assert_allclose(outside.numpy(), expected, atol=1e-5)
        assert space.basis.shape[1] <= 5
        kinds.append(space.is_complement)
    assert kinds[0] is False
    assert kinds[-1] is True


# inflora


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


# sd_lora


def test_sd_lora_moves_along_unit_directions_by_learned_magnitudes(nouns, tiny_bert):
    learner = make_learner("sd_lora", nouns, tiny_bert)
    reports = learner.learn()
    own = []
    for _ in range(2):
        next(reports)
        tensors = current(learner.model).tensors
        own.append({name: value.detach().clone() for name, value in tensors.items()})
    learner.model.grow_head(6)
    learner.strategy.begin_task(learner.model, nouns.experiences[2].task, None)
    shaken(learner)
    data = nouns.experiences[2].train
    new = current(learner.model).tensors
    updates = {}
    for module, alpha in learner.model.adapters[MAGNITUDES].tensors.items():
        assert alpha.shape == (3,)
        update = alpha[2] * b_of(new, module) @ a_of(new, module)
        for i, past in enumerate(own):
            a, b = a_of(past, module), b_of(past, module)
            norms = a.square().sum().sqrt() * b.square().sum().sqrt()
            update = update + alpha[i] * (b @ a) / norms
        updates[module] = SCALE_OF_LORA * update
    features = merged_features(tiny_bert, data.inputs, updates)
    naive = task_loss(learner.model.logits(features), data, first=4)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-4, rtol=1e-4)


def test_sd_lora_is_the_same_model_when_a_task_begins(nouns, tiny_bert):
    learner = make_learner("sd_lora", nouns, tiny_bert)
    next(learner.learn())
    data = nouns.experiences[0].test
    before = learner.strategy.predict(learner.model, data.inputs, None)
    learner.strategy.begin_task(learner.model, nouns.experiences[1].task, None)
    after_it = learner.strategy.predict(learner.model, data.inputs, None)
    torch.testing.assert_close(after_it, before, atol=1e-5, rtol=1e-4)


def test_sd_lora_trains_old_magnitudes_and_not_old_directions(nouns, tiny_bert):
    learner, data = after(1, "sd_lora", nouns, tiny_bert)
    model = learner.model
    past = {k: v.clone() for k, v in model.adapters[PAST].tensors.items()}
    alphas = {k: v.detach().clone() for k, v in model.adapters[MAGNITUDES].tensors.items()}
    assert all(v.norm() == pytest.approx(1, abs=1e-5) for v in past.values())
    descend(learner, data)
    assert all(torch.equal(past[k], v) for k, v in model.adapters[PAST].tensors.items())
    for module, alpha in model.adapters[MAGNITUDES].tensors.items():
        assert (alpha != alphas[module]).all()


def test_sd_lora_magnitude_moves_the_result(nouns, tiny_bert):
    def loss(magnitude):
        learner, data = after(0, "sd_lora", nouns, tiny_bert, magnitude=magnitude)
        descend(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).loss

    assert loss(0.1) != loss(2.0)


# cl_lora


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


# dual_lora


def test_dual_lora_memory_turns_residuals_down_token_by_token():
    generator = generator_of(0, "tokens")
    psi = torch.linalg.qr(torch.randn(6, 4, generator=generator)).Q.T.contiguous()
    b = torch.randn(5, 4, generator=generator)
    x, y = torch.randn(2, 3, 6, generator=generator), torch.randn(2, 3, 5, generator=generator)
    shares = torch.tensor([0.2, 0.7])
    ours = ResidualPatch(psi, b, shares)(x, y)
    for n in range(2):
        for s in range(3):
            expected = y[n, s].clone()
            for t in range(2):
                rows, columns = psi[2 * t : 2 * t + 2], b[:, 2 * t : 2 * t + 2]
                share = (rows @ x[n, s]).square().sum() / x[n, s].square().sum()
                memory = min(1.0, float(share / shares[t]))
                expected += memory * columns @ (rows @ x[n, s])
            torch.testing.assert_close(ours[n, s], expected, atol=1e-5, rtol=1e-5)


def test_dual_lora_leaves_old_inputs_alone_under_adam_too(nouns, tiny_bert):
    learner, data = after(1, "dual_lora", nouns, tiny_bert, threshold=0.9)
    model, kept = learner.model, learner.strategy.state["subspaces"]
    before = {k: v.detach().clone() for k, v in current(model).tensors.items()}
    descend(learner, data)
    new = current(model).tensors
    for module in modules_of(new):
        taken = torch.eye(32) - recalled(kept, module, torch.eye(32)).outside(torch.eye(32))
        assert taken.square().sum() >= 1
        assert (a_of(new, module) @ taken).abs().max() < 1e-5
        assert (a_of(new, module) - a_of(before, module)).abs().max() > 1e-3
        psi = a_of(model.adapters["residual_1"].tensors, module)
        assert (psi @ taken).abs().max() < 1e-5
        torch.testing.assert_close(psi @ psi.T, torch.eye(8), atol=1e-4, rtol=0)


def test_dual_lora_trains_b_of_the_residual_and_all_of_the_orthogonal_one(nouns, tiny_bert):
    learner, data = after(1, "dual_lora", nouns, tiny_bert, threshold=0.5)
    trained = {name for name in learner.model.parameters() if not name.startswith("head.")}
    assert {name.split(".")[0] for name in trained} == {"task_1", "residual_1"}
    assert not any("residual_1" in name and ".lora_A." in name for name in trained)
    old = {k: v.clone() for k, v in learner.model.adapters["residual_0"].tensors.items()}
    before = learner.strategy.predict(learner.model, data.inputs, None)
    descend(learner, data)
    kept = learner.model.adapters["residual_0"].tensors
    assert all(torch.equal(old[name], value) for name, value in kept.items())
    assert (learner.strategy.predict(learner.model, data.inputs, None) != before).any()


def test_dual_lora_threshold_says_how_much_is_taken(nouns, tiny_bert):
    def size(threshold):
        learner, _ = after(1, "dual_lora", nouns, tiny_bert, threshold=threshold)
        new = current(learner.model).tensors
        return sum(a_of(new, module).square().sum() for module in modules_of(new))

    untouched = make_learner("olora", nouns, tiny_bert)
    untouched.strategy.begin_task(untouched.model, nouns.experiences[1].task, None)
    tensors = current(untouched.model).tensors
    free = sum(a_of(tensors, module).square().sum() for module in modules_of(tensors))
    assert size(0.0) == free
    assert size(1.0) < 0.7 * size(0.9) < 0.7 * free


# all


@pytest.mark.parametrize("name", ["n_lora", "inflora", "c_lora", "sd_lora", "cl_lora", "dual_lora"])
def test_it_learns_pictures_too(name, shapes, tiny_vit):
    training = TrainingSettings(epochs=8, batch_size=5, learning_rate=1e-2)
    learner = make_learner(name, shapes, tiny_vit, training=training)
    assert next(learner.learn()).test[0] > 0.5


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("n_lora", {"sparsity": -1.0}, "strategy.sparsity"),
        ("n_lora", {"product": "outer"}, "strategy.product"),
        ("c_lora", {"strength": -1.0}, "strategy.strength"),
        ("inflora", {"threshold": 1.5}, "strategy.threshold"),
        ("inflora", {"num_tasks": 0}, "strategy.num_tasks"),
        ("sd_lora", {"magnitude": 0.0}, "strategy.magnitude"),
        ("cl_lora", {"temperature": 0.0}, "strategy.temperature"),
        ("cl_lora", {"shared_layers": 1.0}, "strategy.shared_layers"),
        ("dual_lora", {"threshold": -0.1}, "strategy.threshold"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)

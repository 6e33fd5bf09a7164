"""The classic methods (SI, MAS, ER-ACE, DER++, GEM, A-GEM, GPM) against naive versions written from
their papers' equations."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import nnls

from lamina.adapters.base import grouped_linear
from lamina.adapters.model import MAIN
from lamina.core import Batch, generator_of
from lamina.memory.memory import Replay
from lamina.strategies import strategy_class
from lamina.strategies.agem import projected
from lamina.strategies.der_pp import squared_error
from lamina.strategies.gem import nonnegative_minimum
from lamina.strategies.gpm import extended, inputs_read
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, as_scenario, drift, logits_of, make_learner

SGD = TrainingSettings(epochs=2, batch_size=4, optimizer="sgd", learning_rate=0.1)


def shaken(learner, size=0.05):
    """Move every trained tensor a little."""
    generator = generator_of(0, "noise")
    with torch.no_grad():
        for value in learner.model.parameters().values():
            value += size * torch.randn(value.shape, generator=generator)


def learn_on(learner, data):
    learner._descend(learner.stream.experiences[learner.next_task].task, data)


def flat(gradients, names):
    return torch.cat([gradients[name].flatten() for name in names])


def replay_of(learner, step=11):
    return Replay(learner.memory, learner._rows, step, "cpu")


def second_task_drift(name, nouns, backbone, **settings):
    """How far the second task moves the tensors that the first left."""
    learner = make_learner(name, nouns, backbone, **settings)
    reports = learner.learn()
    next(reports)
    before = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
    next(reports)
    return drift(learner, before)


# si


def test_si_importance_is_the_path_integral_of_the_tasks_own_gradient(nouns, tiny_bert):
    c, xi, rate = 5.0, 0.01, 0.2
    training = TrainingSettings(
        epochs=3, batch_size=10, optimizer="sgd", learning_rate=rate, momentum=0.0
    )
    learner, data = after(1, "si", nouns, tiny_bert, strength=c, damping=xi, training=training)
    past = {k: v.clone() for k, v in learner.strategy.state["importance"].items()}
    anchor = {k: v.clone() for k, v in learner.strategy.state["anchor"].items()}
    values = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
    start, path = dict(values), {k: torch.zeros_like(v) for k, v in values.items()}
    for _ in range(3):
        moving = {k: v.clone().requires_grad_() for k, v in values.items()}
        loss = F.cross_entropy(learner.model(data.inputs, parameters=moving).logits, data.labels)
        task = dict(zip(moving, torch.autograd.grad(loss, list(moving.values())), strict=True))
        for name, value in values.items():
            whole = task[name].clone()
            rows = len(anchor[name])
            whole[:rows] += 2 * c * past[name] * (value[:rows] - anchor[name])
            moved = value - rate * whole
            path[name] -= task[name] * (moved - value)
            values[name] = moved
    experience = nouns.experiences[1]
    learn_on(learner, data)
    learner.strategy.end_task(learner.model, experience.task, None)
    for name, importance in learner.strategy.state["importance"].items():
        naive = path[name] / ((values[name] - start[name]) ** 2 + xi)
        naive[: len(past[name])] += past[name]
        torch.testing.assert_close(importance, naive.clamp_min(0), atol=2e-5, rtol=2e-2)
        assert (importance >= 0).all()


def test_si_pays_for_distance_from_the_anchor_weighted_by_importance(nouns, tiny_bert):
    learner, data = after(1, "si", nouns, tiny_bert, strength=3.0)
    shaken(learner)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = F.cross_entropy(logits_of(learner, data), data.labels)
    state = learner.strategy.state
    for name, value in learner.model.parameters().items():
        anchor = state["anchor"][name]
        far = (value[: len(anchor)] - anchor) ** 2
        naive = naive + 3.0 * (state["importance"][name] * far).sum()
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_si_of_no_strength_is_finetune_and_of_great_strength_stays_where_it_was(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("si", nouns, tiny_bert, strength=0.0) == free
    assert second_task_drift("si", nouns, tiny_bert, strength=1e3) < 0.8 * free


# mas


def test_mas_importance_is_the_mean_size_of_every_samples_gradient(nouns, tiny_bert):
    learner, _ = after(1, "mas", nouns, tiny_bert)
    fresh = make_learner("mas", nouns, tiny_bert)
    next(fresh.learn())
    data = nouns.experiences[0].train
    parameters = fresh.model.parameters()
    naive = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for one in data.chunks(1):
        length = fresh.model(one.inputs).logits.square().sum()
        gradients = torch.autograd.grad(length, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            naive[name] += gradient.abs() / len(data)
    for name, value in learner.strategy.state["importance"].items():
        torch.testing.assert_close(value, naive[name], atol=1e-6, rtol=1e-3)


def test_mas_needs_no_label_to_weigh_a_parameter(nouns, tiny_bert):
    learner, data = after(1, "mas", nouns, tiny_bert)
    mixed = replace(data, labels=data.labels.flip(0) * 0)
    given, blind = (learner.strategy.review(learner.model, each) for each in (data, mixed))
    assert all(torch.equal(given[name], blind[name]) for name in given.sums)


def test_mas_sums_importance_over_tasks_and_pays_for_distance(nouns, tiny_bert):
    learner, data = after(2, "mas", nouns, tiny_bert, strength=2.0)
    once = make_learner("mas", nouns, tiny_bert, strength=2.0)
    reports = once.learn()
    next(reports)
    first = {k: v.clone() for k, v in once.strategy.state["importance"].items()}
    next(reports)
    second = once._summed(once.strategy.review, nouns.experiences[1].train)
    state = learner.strategy.state
    for name, value in state["importance"].items():
        expected = second[name] / second["count"]
        expected[: len(first[name])] += first[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-3)
    shaken(learner)
    naive = F.cross_entropy(logits_of(learner, data), data.labels)
    for name, value in learner.model.parameters().items():
        far = (value[: len(state["anchor"][name])] - state["anchor"][name]) ** 2
        naive = naive + 2.0 * (state["importance"][name] * far).sum()
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_mas_of_no_strength_is_finetune_and_of_great_strength_stays_where_it_was(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("mas", nouns, tiny_bert, strength=0.0) == free
    assert second_task_drift("mas", nouns, tiny_bert, strength=1e4) < 0.8 * free


# er_ace


def test_er_ace_weighs_new_rows_among_their_own_classes_and_exemplars_among_all(nouns, tiny_bert):
    learner, data = after(2, "er_ace", nouns, tiny_bert, replay_size=5)
    exemplars = replay_of(learner).draw(5)
    batch = data[:5]
    naive = torch.zeros(())
    present = sorted(set(batch.labels.tolist()))
    for row, label in zip(logits_of(learner, batch), batch.labels.tolist(), strict=True):
        own = torch.stack([row[c] for c in present])
        naive = naive + (own.exp().sum().log() - row[label]) / len(batch)
    for row, label in zip(logits_of(learner, exemplars), exemplars.labels.tolist(), strict=True):
        naive = naive + (row.exp().sum().log() - row[label]) / 5
    loss = learner.strategy.step(learner.model, batch, replay_of(learner)).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-5)


def test_er_ace_does_not_push_the_old_rows_of_the_head_with_new_rows(nouns, tiny_bert):
    def pushed(name):
        learner, data = after(1, name, nouns, tiny_bert, replay_size=0)
        loss = learner.strategy.step(learner.model, data, replay_of(learner)).loss
        learner.strategy.replay_size = 4
        exemplars = replay_of(learner).draw(4)
        replayed = F.cross_entropy(logits_of(learner, exemplars), exemplars.labels)
        if name == "er_ace":
            loss = learner.strategy.step(learner.model, data, replay_of(learner)).loss - replayed
        head = learner.model.adapters["head"].tensors["bias"]
        return torch.autograd.grad(loss, head)[0][:2].abs().sum()

    assert pushed("er") > 0.01
    assert pushed("er_ace") < 1e-6


def test_er_ace_without_exemplars_is_finetune(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("er_ace", nouns, tiny_bert, replay_size=0) == free
    assert second_task_drift("er_ace", nouns, tiny_bert, replay_size=4) != free


# der_pp


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
    then = logits_of(learner, learner._rows(memory.ids))[:, :2]
    torch.testing.assert_close(memory.extras["logits"], then.detach(), atol=1e-5, rtol=1e-5)
    learner, _ = after(2, "der_pp", nouns, tiny_bert)
    stored, labels = learner.memory.extras["logits"], learner.memory.labels
    assert torch.equal(stored.isnan().sum(dim=1), torch.where(labels < 2, 2, 0))


def test_der_pp_error_takes_what_was_not_stored_for_zero():
    stored = torch.tensor([[1.0, float("nan")], [2.0, 5.0]])
    logits = torch.tensor([[3.0, 9.0, 9.0], [2.0, 4.0, 9.0]], requires_grad=True)
    error = squared_error(logits, stored)
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
        now = logits_of(learner, learner._rows(learner.memory.ids))
        return squared_error(now, learner.memory.extras["logits"])

    assert far(10.0) < 0.5 * far(0.0)


# gem


@pytest.mark.parametrize("seed", range(8))
def test_gem_solves_its_dual_as_scipy_does(seed):
    num_tasks, dim = 1 + seed, 5
    generator = generator_of(seed, "qp")
    references = torch.randn(num_tasks, dim, generator=generator, dtype=torch.float64)
    gradient = torch.randn(dim, generator=generator, dtype=torch.float64)
    if seed % 3 == 2:
        references[0] = 0
        references[1] = 2 * references[2 % num_tasks]
    v = nonnegative_minimum(references @ references.T, references @ gradient)
    moved = gradient + references.T @ v
    theirs, _ = nnls(references.T.numpy(), -gradient.numpy())
    expected = gradient + references.T @ torch.from_numpy(theirs)
    torch.testing.assert_close(moved, expected, atol=1e-7, rtol=1e-7)
    assert (v >= 0).all()
    assert (references @ moved > -1e-7).all()


def test_gem_has_a_reference_for_every_past_task(nouns, tiny_bert):
    learner, data = after(2, "gem", nouns, tiny_bert)
    output = learner.strategy.step(learner.model, data, replay_of(learner))
    exemplars = replay_of(learner).draw(200)
    assert len(output.references) == 2
    for past, reference in enumerate(output.references):
        rows = exemplars[(exemplars.labels // 2 == past).nonzero()[:, 0]]
        assert len(rows) == 4
        naive = F.cross_entropy(logits_of(learner, rows), rows.labels)
        torch.testing.assert_close(reference, naive, atol=1e-5, rtol=1e-5)
    plain = F.cross_entropy(logits_of(learner, data), data.labels)
    torch.testing.assert_close(output.loss, plain)


def test_gem_takes_the_nearest_gradient_that_no_past_task_speaks_against(nouns, tiny_bert):
    learner, data = after(2, "gem", nouns, tiny_bert, margin=0.0)
    strategy, parameters = learner.strategy, learner.model.parameters()
    output = strategy.step(learner.model, data, replay_of(learner))
    values = list(parameters.values())
    found = [
        torch.autograd.grad(each, values, retain_graph=True)
        for each in (output.loss, *output.references)
    ]
    gradient, *references = (dict(zip(parameters, each, strict=True)) for each in found)
    names = list(parameters)
    memory = torch.stack([flat(each, names) for each in references]).double()
    g = flat(gradient, names).double()
    assert (memory @ g < 0).any()
    adjusted = flat(strategy.adjust(learner.model, gradient, references), names).double()
    theirs, _ = nnls(memory.T.numpy(), -g.numpy())
    expected = g + memory.T @ torch.from_numpy(theirs)
    torch.testing.assert_close(adjusted, expected, atol=1e-6, rtol=1e-4)
    strategy.margin = 0.3
    with_margin = flat(strategy.adjust(learner.model, gradient, references), names).double()
    torch.testing.assert_close(with_margin, expected + 0.3 * memory.sum(0), atol=1e-6, rtol=1e-4)
    agreeing = [{k: v.clone() for k, v in gradient.items()}] * 2
    assert strategy.adjust(learner.model, gradient, agreeing) is gradient


def test_gem_margin_is_the_papers_for_new_classes_and_nothing_for_domains(nouns, tiny_bert):
    def margin(stream, **settings):
        learner, _ = after(1, "gem", stream, tiny_bert, **settings)
        against = {"a": torch.tensor([-1.0])}
        # The nearest gradient without disagreement is zero; what is left is the margin.
        moved = learner.strategy.adjust(learner.model, {"a": torch.tensor([1.0])}, [against])
        return -float(moved["a"])

    domains = as_scenario(nouns, "domain_incremental")
    assert margin(nouns) == pytest.approx(0.5)
    assert margin(domains) == pytest.approx(0.0)
    assert margin(nouns, margin=0.0) == pytest.approx(0.0)
    assert margin(domains, margin=0.3) == pytest.approx(0.3)


# agem


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


@pytest.mark.parametrize(("name", "settings"), [("gem", {"margin": 0.0}), ("agem", {})])
def test_projected_steps_do_not_raise_the_loss_on_exemplars(name, settings, nouns, tiny_bert):
    def rise(each, **settings):
        training = TrainingSettings(epochs=2, batch_size=4, learning_rate=1e-2)
        learner, data = after(1, each, nouns, tiny_bert, training=training, **settings)
        learner.training = replace(SGD, epochs=4, learning_rate=0.01, momentum=0.0)
        first = learner._rows(learner.memory.ids)
        before = F.cross_entropy(logits_of(learner, first), first.labels).item()
        learn_on(learner, data)
        return F.cross_entropy(logits_of(learner, first), first.labels).item() - before

    assert rise("er", replay_size=0) > 0.2
    assert rise(name, **settings) < 0.02


def test_agem_without_exemplars_is_finetune(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("agem", nouns, tiny_bert, replay_size=0) == free
    assert second_task_drift("agem", nouns, tiny_bert) != free


# gpm


def test_gpm_basis_is_that_of_the_singular_vectors_of_the_inputs():
    generator = generator_of(0, "gpm")
    scale = torch.tensor([5.0, 3.0, 1.0, 0.1, 0.01, 0.0])
    first = torch.randn(6, 40, generator=generator) * scale[:, None]
    left, values, _ = torch.linalg.svd(first, full_matrices=False)
    k = 0
    while values[:k].square().sum() < 0.97 * first.square().sum():
        k += 1
    basis = extended(torch.zeros(6, 0), first @ first.T, 0.97)
    assert basis.shape == (6, k)
    torch.testing.assert_close(basis @ basis.T, left[:, :k] @ left[:, :k].T, atol=1e-4, rtol=1e-4)
    second = torch.randn(6, 40, generator=generator) * scale.flip(0)[:, None]
    rest = second - basis @ (basis.T @ second)
    left, values, _ = torch.linalg.svd(rest, full_matrices=False)
    held = (basis.T @ second).square().sum()
    n = 0
    while held + values[:n].square().sum() < 0.97 * second.square().sum():
        n += 1
    both = extended(basis, second @ second.T, 0.97)
    assert both.shape == (6, k + n)
    torch.testing.assert_close(both.T @ both, torch.eye(k + n), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        both[:, k:] @ both[:, k:].T, left[:, :n] @ left[:, :n].T, atol=1e-4, rtol=1e-4
    )


def test_gpm_adds_nothing_for_inputs_that_it_holds_and_never_more_than_there_is():
    inputs = torch.randn(4, 20, generator=generator_of(0, "gpm"))
    basis = extended(torch.zeros(4, 0), inputs @ inputs.T, 1.0)
    assert basis.shape == (4, 4)
    assert torch.equal(extended(basis, inputs @ inputs.T, 1.0), basis)
    assert extended(torch.zeros(4, 0), inputs @ inputs.T, 0.0).shape == (4, 0)


@pytest.mark.parametrize("adapter", ["lora", "bottleneck"])
def test_gpm_projects_each_matrix_by_what_it_read(adapter, nouns, tiny_bert):
    learner, _ = after(1, "gpm", nouns, tiny_bert, adapter=adapter, threshold=0.9)
    parameters = learner.model.parameters()
    generator = generator_of(0, "gradients")
    gradients = {k: torch.randn(v.shape, generator=generator) for k, v in parameters.items()}
    adjusted = learner.strategy.adjust(learner.model, gradients, [])
    read = inputs_read(learner.model, nouns.experiences[0].train.inputs)
    for name, gradient in gradients.items():
        if name.startswith("head."):
            assert adjusted[name] is gradient
        elif name.removeprefix("main.") in read:
            x = read[name.removeprefix("main.")]
            response = x @ adjusted[name].T
            left = torch.linalg.svd(x.T, full_matrices=False)
            k = int((left.S.square().cumsum(0) < 0.9 * left.S.square().sum()).sum()) + 1
            u = left.U[:, :k]
            naive = gradient - gradient @ u @ u.T
            torch.testing.assert_close(adjusted[name], naive, atol=1e-3, rtol=1e-3)
            assert response.norm() < 0.5 * (x @ gradient.T).norm()
        else:
            assert adapter == "bottleneck"
            assert not adjusted[name].any()


def test_gpm_knows_what_every_matrix_of_an_adapter_reads(nouns, tiny_bert):
    data = nouns.experiences[0].train
    for adapter in ("lora", "bottleneck"):
        learner, _ = after(1, "gpm", nouns, tiny_bert, adapter=adapter)
        model = learner.model
        tensors = model.adapters[MAIN].tensors
        read = inputs_read(model, data.inputs)
        assert {k for k, v in tensors.items() if v.dim() == 2} == set(read)
        for name, x in read.items():
            # A row more or less of W x would show in the features: every token is there.
            assert x.shape == (int(data.inputs["attention_mask"].sum()), tensors[name].shape[1])
            assert torch.equal(grouped_linear(x, tensors[name]), x @ tensors[name].T)


def test_gpm_of_the_whole_space_keeps_old_features_and_of_none_of_it_moves_them(nouns, tiny_bert):
    def change(threshold):
        settings = {"threshold": threshold, "growth": 0.0, "training": replace(SGD, epochs=4)}
        learner, data = after(1, "gpm", nouns, tiny_bert, **settings)
        old = nouns.experiences[0].test.inputs
        before = learner.model(old).features.detach()
        learn_on(learner, data)
        return (learner.model(old).features - before).abs().max()

    free = change(0.0)
    assert free > 1e-3
    assert change(0.99) < 0.1 * free
    assert change(1.0) < 1e-5


# streams without tasks


@pytest.mark.parametrize("name", ["finetune", "linear_probe", "er", "er_ace", "der_pp", "agem"])
def test_it_learns_from_a_stream_without_tasks_and_names_no_class_before_its_time(
    name, nouns, tiny_bert
):
    parts = [each.train for each in nouns.experiences]
    flow = [
        replace(each, train=Batch.cat([parts[n]] * 12), test=parts[n])
        for n, each in enumerate(nouns.experiences)
    ]
    stream = replace(nouns, scenario="task_free", experiences=tuple(flow), one_pass=True)
    training = TrainingSettings(batch_size=5, learning_rate=2e-2)
    learner = make_learner(name, stream, tiny_bert, training=training)
    reports = learner.learn()
    next(reports)
    second = next(reports)
    assert second.test[1] >= 0.7
    with torch.no_grad():
        seen = Batch.cat(parts[:2]).inputs
        answers = learner.strategy.predict(learner.model, seen, None).argmax(dim=1)
    assert answers.max() < 4
    assert "task_free" in strategy_class(name).scenarios


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("si", {"strength": -1.0}, "strategy.strength"),
        ("si", {"damping": 0.0}, "strategy.damping"),
        ("mas", {"strength": -1.0}, "strategy.strength"),
        ("er_ace", {"replay_size": -1}, "strategy.replay_size"),
        ("der_pp", {"alpha": -0.1}, "strategy.alpha"),
        ("gem", {"replay_size": 0}, "strategy.replay_size"),
        ("gem", {"margin": -0.5}, "strategy.margin"),
        ("agem", {"replay_size": -1}, "strategy.replay_size"),
        ("gpm", {"threshold": 1.5}, "strategy.threshold"),
        ("gpm", {"growth": -0.1}, "strategy.growth"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)

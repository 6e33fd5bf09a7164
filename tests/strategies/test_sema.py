"""SEMA: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from adapter_cases import ROWS, disturb, finished
from lamina.adapters.mixture import mixed_features
from lamina.adapters.model import HEAD
from lamina.strategies.sema import descriptor_error
from nouns import after, make_learner


def sema(stream, backbone, **settings):
    """SEMA on tiny backbones, where a code of 4 is already narrow."""
    settings = {"descriptor_width": 4, **settings}
    return finished("sema", stream, backbone, adapter="bottleneck", **settings)


def test_sema_mixes_a_layers_adapters_by_its_router(nouns, tiny_bert):
    learner = sema(nouns, tiny_bert, threshold=1e-3)
    model = learner.model
    assert learner.strategy.state["experts"] == {"1": [0, 1, 2]}
    disturb("adapter_0", "adapter_1", "adapter_2", model=model, size=0.3)
    disturb("router_0", "router_1", "router_2", model=model, size=0.3)
    inputs = nouns.experiences[0].test.inputs
    mask = inputs["attention_mask"]
    hooks, seen = [], {}

    def bottleneck(number, layer, x):
        tensors = model.adapters[f"adapter_{number}"].tensors
        down = F.linear(
            x, tensors[f"{layer}.down.weight"], tensors[f"{layer}.down.bias"]
        ).clamp_min(0)
        up = F.linear(down, tensors[f"{layer}.up.weight"], tensors[f"{layer}.up.bias"])
        return model.kind.scale * up

    def read(layer):
        return lambda module, arguments: seen.update({layer: arguments[0]})

    def first(module, arguments, y):
        return y + bottleneck(0, 0, seen[0])

    def second(module, arguments, y):
        out = y.clone()
        for n in range(len(y)):
            words = seen[1][n][mask[n] == 1]
            mean = sum(words) / len(words)
            routers = [model.adapters[f"router_{m}"].tensors for m in range(3)]
            logits = [router["1.weight"][0] @ mean + router["1.bias"][0] for router in routers]
            weights = torch.stack(logits).softmax(0)
            out[n] += sum(weights[m] * bottleneck(m, 1, seen[1][n]) for m in range(3))
        return out

    for layer, change in enumerate((first, second)):
        site = tiny_bert.architecture.mlps[layer]
        modules = [tiny_bert.model.get_submodule(name) for name in (site.read, site.write)]
        hooks.append(modules[0].register_forward_pre_hook(read(layer)))
        hooks.append(modules[1].register_forward_hook(change))
    naive = tiny_bert(inputs).features
    for hook in hooks:
        hook.remove()
    ours, means = mixed_features(model, inputs, learner.strategy.state["experts"])
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(means["1"][0], seen[1][0][mask[0] == 1].mean(0))


def test_sema_with_one_adapter_is_that_adapter(nouns, tiny_bert):
    learner = sema(nouns, tiny_bert, threshold=1e6)
    model = learner.model
    assert model.active == ["adapter_0"]
    inputs = nouns.experiences[0].test.inputs
    ours = learner.strategy.predict(model, inputs, None)
    torch.testing.assert_close(ours, model(inputs).logits)


def test_sema_remembers_mean_and_deviation_of_reconstruction_errors(nouns, tiny_bert):
    learner = sema(nouns, tiny_bert, threshold=1e6)
    model, train = learner.model, nouns.experiences[0].train
    _, means = mixed_features(model, train.inputs, learner.strategy.state["experts"])
    tensors = model.adapters["descriptor_1_0"].tensors
    errors = []
    for mean in means["1"]:
        code = tensors["encoder"] @ mean + tensors["code_bias"]
        back = tensors["decoder"] @ code + tensors["bias"]
        errors.append(((mean - back) ** 2).mean())
    errors = torch.stack(errors)
    usual = learner.strategy.state["errors"]["1.0"]
    torch.testing.assert_close(usual, torch.stack([errors.mean(), errors.std()]), rtol=1e-3, atol=0)


def test_sema_expands_where_the_mean_z_score_of_every_adapter_exceeds_the_threshold(
    nouns, tiny_bert
):
    learner, data = after(
        1, "sema", nouns, tiny_bert, adapter="bottleneck", threshold=1e-3, descriptor_width=4
    )
    strategy, model = learner.strategy, learner.model
    strategy.state["experts"]["1"].pop()
    _, means = mixed_features(model, data.inputs, strategy.state["experts"])
    mean, deviation = strategy.state["errors"]["1.0"]
    error = descriptor_error(model, "1", 0, means["1"])
    score = sum(abs(each - mean) / deviation for each in error) / ROWS
    preview = learner.summarise(strategy.preview, data)
    torch.testing.assert_close(preview["1"][0] / preview["count"], score, atol=1e-4, rtol=1e-4)
    for threshold, new in ((0.99 * score.item(), ["1"]), (1.01 * score.item(), [])):
        other = make_learner("sema", nouns, tiny_bert, adapter="bottleneck", threshold=threshold)
        other.strategy.begin_task(other.model, nouns.experiences[0].task, None)
        other.strategy.begin_task(other.model, nouns.experiences[1].task, preview)
        assert other.strategy.state["new"] == new


def test_sema_without_a_surprise_trains_the_head_alone_and_with_one_in_two_phases(nouns, tiny_bert):
    def begun(threshold):
        learner, _ = after(1, "sema", nouns, tiny_bert, adapter="bottleneck", threshold=threshold)
        strategy, model, task = learner.strategy, learner.model, nouns.experiences[1].task
        trained = []
        for phase, _ in enumerate(strategy.phases(task)):
            strategy.begin_phase(model, task, phase)
            trained.append({name.split(".")[0] for name in model.parameters()})
        return trained

    assert begun(1e6) == [{HEAD}]
    assert begun(1e-3) == [{HEAD, "adapter_1", "router_1"}, {"descriptor_1_1"}]


def test_sema_trains_all_but_the_head_slowly(nouns, tiny_bert):
    learner, _ = after(1, "sema", nouns, tiny_bert, adapter="bottleneck", slow=0.25, threshold=1e-3)
    strategy, model, task = learner.strategy, learner.model, nouns.experiences[1].task
    for phase, _ in enumerate(strategy.phases(task)):
        strategy.begin_phase(model, task, phase)
        stepper = learner.new_stepper(10)
        rates = {
            id(tensor): group["lr"]
            for group in stepper.optimizer.param_groups
            for tensor in group["params"]
        }
        for name, tensor in stepper.parameters.items():
            factor = 1.0 if name.startswith(f"{HEAD}.") else 0.25
            assert rates[id(tensor)] == factor * learner.training.learning_rate


def test_sema_descriptor_learns_to_reconstruct_in_its_phase(nouns, tiny_bert):
    def error(share):
        settings = {"description": share, "slow": 1.0}
        learner = make_learner("sema", nouns, tiny_bert, adapter="bottleneck", **settings)
        next(learner.learn())
        return learner.strategy.state["errors"]["1.0"][0]

    assert error(4.0) < 0.8 * error(0.5)


def test_sema_grows_by_image_too_and_in_as_many_layers_as_it_may(shapes, tiny_vit):
    learner = sema(shapes, tiny_vit, threshold=1e-3, growing=2)
    assert learner.strategy.state["experts"] == {"0": [0, 1, 2], "1": [0, 1, 2]}
    assert sema(shapes, tiny_vit, threshold=1e6).model.active == ["adapter_0"]

"""A private step is Opacus' own: on a linear model with its hooks, and row by row on adapters."""

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters import kind_class
from lamina.adapters.model import AdaptedModel
from lamina.core import StepOutput, generator_of
from lamina.federation.privacy.example_level import (
    ExamplePrivacy,
    PrivateSteps,
    private_optimizer,
    sample_rows,
)
from lamina.registry import InputError
from lamina.strategies.base import Strategy
from lamina.strategies.finetune import Finetune
from lamina.training.settings import TrainingSettings
from lamina.training.stepper import Stepper
from lamina.training.workers import Alone

QUIET = ExamplePrivacy(clip=0.05, noise_multiplier=0.0, sampling_rate=0.5)


def adapted(backbone, kind="lora") -> AdaptedModel:
    model = AdaptedModel(backbone, kind_class(kind)(), seed=0)
    model.add()
    model.grow_head(3)
    generator = generator_of(0, "test")
    with torch.no_grad():
        for tensor in model.parameters().values():
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator))
    return model


def losses_of(logits, batch):
    return F.cross_entropy(logits, batch.labels, reduction="none")


def descended(model, batch, privacy, strategy=None, num_rows=6):
    """What a private step of gradient descent with rate 1 takes off each tensor."""
    before = {name: value.detach().clone() for name, value in model.parameters().items()}
    descent = TrainingSettings(optimizer="sgd", momentum=0.0, learning_rate=1.0)
    stepper = Stepper(strategy or Finetune(), model, descent, 1, Alone())
    PrivateSteps(stepper, privacy, num_rows, 3, "round 0", "client 0").step(batch)
    return {name: before[name] - value.detach() for name, value in model.parameters().items()}


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_a_step_without_noise_is_the_sum_of_clipped_row_gradients(tiny_bert, sentences, kind):
    model = adapted(tiny_bert, kind)
    expected = {name: torch.zeros_like(value) for name, value in model.parameters().items()}
    clipped = 0
    for row in sentences.chunks(1):
        loss = losses_of(model(row.inputs).logits, row).sum()
        found = torch.autograd.grad(loss, list(model.parameters().values()))
        norm = torch.cat([each.flatten() for each in found]).norm()
        clipped += int(norm > QUIET.clip)
        for name, gradient in zip(expected, found, strict=True):
            expected[name] += gradient * min(1.0, QUIET.clip / (float(norm) + 1e-6)) / (0.5 * 6)
    assert clipped > 0
    steps = descended(model, sentences, QUIET)
    for name, value in expected.items():
        torch.testing.assert_close(steps[name], value, rtol=1e-3, atol=1e-6)


def test_more_rows_than_are_held_at_once_are_the_same_step_with_noise_added_once(
    tiny_bert, sentences, monkeypatch
):
    loud = ExamplePrivacy(clip=0.05, noise_multiplier=1.0, sampling_rate=0.5)
    for privacy in (QUIET, loud):
        whole = descended(adapted(tiny_bert), sentences, privacy)
        with monkeypatch.context() as few:
            few.setattr("lamina.federation.privacy.example_level._AT_ONCE", 4)
            chunked = descended(adapted(tiny_bert), sentences, privacy)
        for name, value in whole.items():
            torch.testing.assert_close(chunked[name], value, rtol=1e-3, atol=1e-6)


class Comparing(Strategy):
    """Its loss compares the rows of a batch, and is scaled without bounds."""

    def step(self, model, batch, replay):
        features = model(batch.inputs).features
        near = (features @ features.T).sum()
        return StepOutput(1000 * (near + model(batch.inputs).logits.square().sum()))


def test_no_row_moves_a_step_by_more_than_the_clip_whatever_the_loss(tiny_bert, sentences):
    for row in range(len(sentences)):
        others = torch.tensor([n for n in range(len(sentences)) if n != row])
        with_it = descended(adapted(tiny_bert), sentences, QUIET, Comparing())
        without = descended(adapted(tiny_bert), sentences[others], QUIET, Comparing())
        moved = torch.cat([(with_it[name] - without[name]).flatten() for name in with_it])
        # The sum is divided by the three rows that are expected.
        assert 0 < moved.norm() <= 1.001 * QUIET.clip / 3


def test_the_noise_of_a_step_without_rows_has_the_deviation_that_was_asked_for(
    tiny_bert, sentences
):
    loud = ExamplePrivacy(clip=0.1, noise_multiplier=2.0, sampling_rate=0.5)
    steps = descended(adapted(tiny_bert), sentences[:0], loud)
    noise = torch.cat([value.flatten() for value in steps.values()])
    deviation = 2.0 * 0.1 / (0.5 * 6)
    assert abs(noise.std() - deviation) < 4 * deviation / (2 * len(noise)) ** 0.5
    again = descended(adapted(tiny_bert), sentences[:0], loud)
    assert all(torch.equal(again[name], value) for name, value in steps.items())


def test_clipping_is_that_of_opacus_own_hooks_on_a_linear_model():
    opacus = pytest.importorskip("opacus")
    inputs = torch.randn(7, 4, generator=generator_of(1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    linear = torch.nn.Linear(4, 3)
    weight, bias = (each.detach().clone().requires_grad_() for each in linear.parameters())
    privacy = ExamplePrivacy(clip=0.5, noise_multiplier=0.0, sampling_rate=1.0)

    hooked = opacus.GradSampleModule(linear, loss_reduction="sum")
    theirs = private_optimizer(torch.optim.SGD(linear.parameters(), lr=1.0), privacy, 7, 0)
    # Its backward hooks warn where no input has a gradient.
    F.cross_entropy(hooked(inputs.clone().requires_grad_()), labels, reduction="sum").backward()
    theirs.step()

    copies = [
        each.detach().expand(7, *each.shape).clone().requires_grad_() for each in (weight, bias)
    ]
    logits = torch.einsum("nd,ncd->nc", inputs, copies[0]) + copies[1]
    total = F.cross_entropy(logits, labels, reduction="sum")
    ours = private_optimizer(torch.optim.SGD([weight, bias], lr=1.0), privacy, 7, 0)
    for tensor, found in zip((weight, bias), torch.autograd.grad(total, copies), strict=True):
        tensor.grad_sample = found
    ours.step()
    torch.testing.assert_close(weight, linear.weight)
    torch.testing.assert_close(bias, linear.bias)
    assert not torch.equal(weight, copies[0][0])


def test_rows_are_sampled_independently_and_repeatably():
    privacy = ExamplePrivacy(clip=1.0, noise_multiplier=1.0, sampling_rate=0.2)
    draws = [sample_rows(100, privacy, 0, "client", step) for step in range(200)]
    sizes = torch.tensor([float(len(each)) for each in draws])
    assert abs(sizes.mean() - 20) < 4 * (16 / 200) ** 0.5
    assert abs(sizes.var() - 16) < 4 * 16 * (2 / 200) ** 0.5
    assert torch.equal(draws[3], sample_rows(100, privacy, 0, "client", 3))
    assert not torch.equal(draws[3], draws[4])


@pytest.mark.parametrize(
    "wrong", [{"clip": -1.0}, {"noise_multiplier": float("nan")}, {"sampling_rate": 2.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ExamplePrivacy(**{"clip": 1.0, "noise_multiplier": 1.0, "sampling_rate": 0.5, **wrong})

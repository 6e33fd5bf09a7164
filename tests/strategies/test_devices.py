"""No strategy lets tensors of the CPU meet those of a GPU, found out without a GPU: all that the
learner calls (setup, preview, begin_task, step, adjust, after_step, review, end_task, annotate,
predict, route) runs with tensors that pretend to be on one."""

import pytest
import torch

from lamina.core import Summary
from lamina.strategies import strategy_class
from lamina.strategies.gem import nonnegative_minimum
from lamina.training.checkpoint import pack, unpack
from lamina.training.learner import Learner
from lamina.training.settings import TrainingSettings
from nouns import OF_CLASSES, as_scenario, make_learner
from pretended_device import CUDA, OnDevice, PretendedDevice, moved, tensors_of

SHORT = TrainingSettings(epochs=1, batch_size=5, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def _summaries_are_on_the_device(monkeypatch):
    """Data-parallel workers lay the tensors of a summary end to end."""

    def added(summary: Summary, workers):
        for name, tensor in (*summary.sums.items(), *summary.rows.items()):
            assert isinstance(tensor, OnDevice), f"{name} of a summary is on the CPU"
        return summary

    monkeypatch.setattr("lamina.training.learner.added", added)
    monkeypatch.setattr("lamina.training.stepper.added", added)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_strategy_keeps_to_one_device(name, nouns, shapes, tiny_bert, tiny_vit):
    """In a stream with boundaries from its first to its last task, the last from a checkpoint."""
    cls = strategy_class(name)
    text = "text" in cls.modalities
    backbone, mode = moved(tiny_bert if text else tiny_vit)
    kinds = [kind for kind in cls.scenarios if kind not in ("joint", "task_free")]
    stream = nouns if text else shapes
    stream = as_scenario(stream, kinds[0]) if kinds else stream
    with mode:
        learner = make_learner(name, stream, backbone, training=SHORT)
        assert isinstance(learner.model.adapters["head"].tensors["weight"], OnDevice)
        reports = learner.learn()
        next(reports)
        resumed = make_learner(name, stream, backbone, training=SHORT)
        if resumed.strategy.data != "all":
            next(reports)
            resumed.load_state_dict(unpack(pack(learner.state_dict())))
        last = list(resumed.learn())[-1]
    assert last.done
    assert all(isinstance(each, OnDevice) for each in tensors_of(resumed.strategy.state))


@pytest.mark.parametrize(
    "name", [each for each in OF_CLASSES if "task_free" in strategy_class(each).scenarios]
)
def test_a_strategy_keeps_to_one_device_without_boundaries(name, nouns, tiny_bert):
    backbone, mode = moved(tiny_bert)
    with mode:
        learner = make_learner(name, as_scenario(nouns, "task_free"), backbone, training=SHORT)
        (*_, last) = learner.learn()
    assert last.done


def mixed_by(work):
    """What the pretended device says of tensors that meet in `work(device tensor, cpu tensor)`."""
    with PretendedDevice(), pytest.raises(RuntimeError, match="pretended GPU"):
        work(torch.ones(3, device=CUDA), torch.ones(3))


def test_the_pretended_device_minds_what_a_gpu_minds():
    mixed_by(lambda x, y: x + y)
    mixed_by(lambda x, y: y[x > 0])
    mixed_by(lambda x, y: torch.stack([x.sum(), y.sum()]))
    mixed_by(lambda x, y: torch.where(x > 0, x, y))
    mixed_by(lambda x, y: (x > 0) & (y > 0))
    mixed_by(lambda x, y: torch.nn.functional.linear(x, y[None]))
    mixed_by(lambda x, y: x.bernoulli_(0.5, generator=torch.Generator()))
    mixed_by(lambda x, y: torch.rand(3, device=CUDA, generator=torch.Generator()))
    mixed_by(lambda x, y: x.__setitem__(x > 0, y))


def test_the_pretended_device_allows_what_a_gpu_allows():
    with PretendedDevice():
        x, y = torch.ones(3, device=CUDA, requires_grad=True), torch.ones(3)
        assert x.device == CUDA
        assert torch.zeros(2, device=x.device).device == CUDA
        assert (x * y.sum()).device == CUDA
        assert x[y > 0].device == CUDA
        assert x.cpu().device == y.device == x.to("cpu").device
        assert y.to(x.device).device == y.to(x).device == CUDA
        (gradient,) = torch.autograd.grad((x * y.to(x.device)).sum(), [x])
        assert gradient.device == CUDA
        x.detach()[1:] = y[1:]
        assert (x.detach().cpu() + y).tolist() == [2.0, 2.0, 2.0]


def test_a_projection_that_puts_a_count_on_the_cpu_is_found(nouns, tiny_bert):
    """The kind of fault, made on purpose."""
    backbone, mode = moved(tiny_bert)
    learner: Learner
    with mode:
        learner = make_learner("finetune", nouns, backbone)

        def adjust(model, gradients, references):
            free = torch.zeros(3, dtype=torch.bool)
            first = next(iter(gradients.values())).flatten()[:3]
            return {} if (free & (first < 0)).any() else gradients

        learner.strategy.adjust = adjust
        with pytest.raises(RuntimeError, match="of the CPU meets"):
            list(learner.learn())
        other = make_learner("finetune", nouns, backbone)
        other.strategy.review = count_on_the_cpu
        with pytest.raises(AssertionError, match="count of a summary is on the CPU"):
            list(other.learn())


def test_gems_dual_is_solved_where_its_numbers_are():
    gram, agreement = torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([-1.0, 0.3])
    expected = nonnegative_minimum(gram, agreement.double())
    with PretendedDevice():
        found = nonnegative_minimum(gram.to(CUDA), agreement.double().to(CUDA))
        assert isinstance(found, OnDevice)
    assert torch.equal(found.as_subclass(torch.Tensor), expected)


def count_on_the_cpu(model, batch):
    """What a review may not say."""
    return Summary({"count": torch.tensor(float(len(batch)))})

"""SDFT: its loss, its teacher and what it says against naive versions."""

import pytest
import torch

from lamina.adapters.model import MAIN
from lamina.core import Batch
from lamina.memory.token_rows import put_together, taken_apart
from lamina.strategies.sdft import reverse_kl
from language_models import brief_llama
from nouns import NO_REPLAY, make_learner


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny language model that comes to an end, and its stream of calls."""
    return brief_llama(tmp_path_factory.mktemp("llama"))


def learner_of(llama, **settings):
    backbone, stream = llama
    return make_learner("sdft", stream, backbone, **{"longest": 5, **settings})


def moved(learner):
    """Student and teacher apart from each other, and from the frozen model."""
    with torch.no_grad():
        for name, size in ((MAIN, 0.1), ("teacher", -0.1)):
            for tensor in learner.model.adapters[name].tensors.values():
                tensor.add_(size)


def naive_kl(student, teacher):
    p, q = student.softmax(dim=0).double(), teacher.softmax(dim=0).double()
    return float((p * (p / q).log()).sum())


def test_reverse_kl_is_that_of_the_student_to_the_teacher():
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    expected = sum(naive_kl(*rows) for rows in zip(*logits, strict=True)) / 4
    assert float(reverse_kl(*logits)) == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_over_what_the_student_says_with_a_teacher_that_has_read_the_answer(llama):
    learner = learner_of(llama, temperature=0.0, before="as in", after="now")
    moved(learner)
    backbone, model = llama[0], learner.model
    batch = llama[1].experiences[0].train[slice(0, 4)].trimmed()
    words = backbone.inputs.encoder.tokenizer
    before, after = (
        torch.tensor(words(text, add_special_tokens=False)["input_ids"])
        for text in ("as in", "now")
    )
    divergences = []
    with torch.no_grad():
        found = learner.strategy.step(model, batch, NO_REPLAY).loss
        for prompt, answer in taken_apart(batch):
            own = put_together([(prompt, prompt[:0])]).inputs
            (said,) = model.generate(own, 5)
            shown = torch.cat([prompt, before, answer[:-1], after])
            student = model(put_together([(prompt, said)]).inputs).logits[0]
            taught = put_together([(shown, said)]).inputs
            teacher = model(taught, adapters=["teacher"]).logits[0]
            divergences += [naive_kl(*rows) for rows in zip(student, teacher, strict=True)]
    assert float(found) == pytest.approx(sum(divergences) / len(divergences), rel=1e-3)
    assert float(found) > 1e-3


def test_the_right_answer_reaches_the_student_through_the_teacher_alone(llama):
    learner = learner_of(llama, temperature=0.0)
    moved(learner)
    batch = llama[1].experiences[0].train[slice(0, 4)].trimmed()
    (first, *rest) = taken_apart(batch)
    other = put_together([(first[0], rest[0][1]), *rest])
    changed = Batch(other.inputs, other.labels, batch.ids, batch.task)
    with torch.no_grad():
        losses = [
            learner.strategy.step(learner.model, each, NO_REPLAY).loss for each in (batch, changed)
        ]
        said = [learner.strategy.rollouts(learner.model, each.inputs) for each in (batch, changed)]
    assert losses[0] != losses[1]
    assert all(torch.equal(*pair) for pair in zip(*said, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_teacher_is_a_slow_average_of_the_student(llama, decay):
    learner = learner_of(llama, decay=decay)
    strategy, model = learner.strategy, learner.model
    start = {k: v.clone() for k, v in model.adapters["teacher"].tensors.items()}
    moved(learner)
    teacher = {k: v.clone() for k, v in model.adapters["teacher"].tensors.items()}
    strategy.after_step(model, None)
    for name, tensor in model.adapters["teacher"].tensors.items():
        student = model.adapters[MAIN].tensors[name].detach()
        expected = decay * teacher[name] + (1 - decay) * student
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)
        assert not torch.equal(start[name], teacher[name])


def test_what_the_student_says_is_drawn_anew_in_each_step_and_the_same_again(llama):
    learner = learner_of(llama)
    inputs = llama[1].experiences[0].train[slice(0, 4)].trimmed().inputs
    strategy, model = learner.strategy, learner.model
    first, again = (torch.cat(strategy.rollouts(model, inputs)) for _ in range(2))
    assert torch.equal(first, again)
    strategy.after_step(model, None)
    later = torch.cat(strategy.rollouts(model, inputs))
    assert not torch.equal(first, later)


def test_it_draws_the_student_to_the_teacher(llama):
    learner = learner_of(llama, decay=1.0)
    losses = []
    step = learner.strategy.step

    def noted(model, batch, replay):
        output = step(model, batch, replay)
        losses.append(float(output.loss.detach()))
        return output

    learner.strategy.step = noted
    next(learner.learn())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_a_setting_out_of_range_is_refused_by_its_key(llama):
    with pytest.raises(ValueError, match=r"strategy\.temperature"):
        learner_of(llama, temperature=-1.0)

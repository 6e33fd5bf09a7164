"""LFPT5: its loss against a naive version, and what its weights do."""

import pytest
import torch
from torch.nn.functional import log_softmax

from lamina.adapters.model import MAIN
from lamina.adapters.written_rows import whole_rows
from lamina.memory.token_rows import drawn, put_apart, put_together, remembered, taken_apart
from lamina.training.settings import TrainingSettings
from language_models import be_brief, brief_llama, calls_stream, language_backbone
from nouns import NO_REPLAY, make_learner


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny language model that comes to an end, and its stream of calls."""
    return brief_llama(tmp_path_factory.mktemp("llama"))


def begun(llama, **settings):
    """A learner that has learned a task and has begun the next, with a prompt that went on, rows of
    the new task, and the two rows that it remembers as written."""
    backbone, stream = llama
    learner = make_learner("lfpt5", stream, backbone, **{"longest": 6, "share": 0.5, **settings})
    next(learner.learn())
    experience = stream.experiences[1]
    preview = learner.summarise(learner.strategy.preview, experience.train)
    learner.strategy.begin_task(learner.model, experience.task, preview)
    written = stream.experiences[0].train[slice(0, 2)].trimmed()
    learner.strategy.state["written"] = remembered(written)
    with torch.no_grad():
        for tensor in learner.model.adapters[MAIN].tensors.values():
            tensor.add_(0.3)
    return learner, experience.train[slice(0, 4)].trimmed(), written


def scores_of(model, pair, **adapters):
    one = put_together([pair])
    return log_softmax(model(one.inputs, **adapters).logits[0], dim=1)


def test_the_loss_is_of_answers_whole_rows_and_the_divergence_on_written_ones(llama):
    learner, batch, written = begun(llama, writing=0.5, consistency=3.0)
    model, end = learner.model, torch.tensor([llama[0].inputs.end_token])
    said, read, apart = [], [], []
    with torch.no_grad():
        found = learner.strategy.step(model, batch, NO_REPLAY).loss
        for prompt, answer in [*taken_apart(batch), *taken_apart(written)]:
            scores = scores_of(model, (prompt, answer))
            said += [-scores[at, token] for at, token in enumerate(answer.tolist())]
            whole = torch.cat([prompt, end, answer])
            scores = scores_of(model, (end, whole))
            read += [-scores[at, token] for at, token in enumerate(whole.tolist())]
        for pair in taken_apart(written):
            now, before = scores_of(model, pair), scores_of(model, pair, adapters=["before"])
            apart += list((before.exp() * (before - now)).sum(dim=1))
    means = [torch.stack(each).mean() for each in (said, read, apart)]
    torch.testing.assert_close(
        found, means[0] + 0.5 * means[1] + 3.0 * means[2], atol=1e-4, rtol=1e-4
    )
    assert means[2] > 1e-3


def test_t5_writes_prompts_by_its_decoder_and_answers_them_as_any_others(tmp_path):
    backbone = language_backbone("t5 gated", tmp_path)
    stream = calls_stream(backbone)
    data, end = stream.experiences[0].train, torch.tensor([backbone.inputs.end_token])
    # T5's logits are so large that one token has all the probability.
    backbone.language_head.weight.mul_(0.1)
    be_brief(backbone, data)
    settings = {"longest": 12, "share": 2.0, "writing": 0.5}
    training = TrainingSettings(epochs=1, batch_size=4, learning_rate=1e-3)
    learner = make_learner("lfpt5", stream, backbone, training=training, **settings)
    model = learner.model
    whole = whole_rows(model, data)
    for (asked, said), (prompt, _) in zip(taken_apart(whole), taken_apart(data), strict=True):
        assert torch.equal(asked, end)
        assert torch.equal(said, prompt)
    last = [*learner.learn()][-1]
    assert None not in last.test
    kept = learner.strategy.state["written"]
    assert 1 < len(kept["labels"]) < 24
    written = drawn(kept, 2, torch.Generator().manual_seed(0))
    for prompt, answer in taken_apart(written):
        assert prompt[-1] == answer[-1] == end
        assert end not in prompt[:-1]
    batch = stream.experiences[2].train[slice(0, 2)].trimmed()
    with torch.no_grad():
        found = learner.strategy.step(model, batch, NO_REPLAY)
        losses = [
            torch.cat([losses_of(model, each) for each in rows])
            for rows in (taken_apart(batch), taken_apart(whole_rows(model, batch)))
        ]
    learner.strategy.state.pop("written")
    with torch.no_grad():
        alone = learner.strategy.step(model, batch, NO_REPLAY)
    assert "divergence" in found.metrics
    torch.testing.assert_close(
        alone.loss, losses[0].mean() + 0.5 * losses[1].mean(), atol=1e-4, rtol=1e-4
    )


def losses_of(model, pair):
    """Of the tokens of T5's answer."""
    one = put_apart([pair], model.backbone.capabilities.decoder_start)
    scores = log_softmax(model(one.inputs).logits[0], dim=1)
    return -scores[torch.arange(len(pair[1])), pair[1]]


def test_the_prompt_before_is_that_which_the_last_task_left(llama):
    learner, *_ = begun(llama)
    now, before = (learner.model.adapters[name] for name in (MAIN, "before"))
    assert not before.trainable
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(now.tensors[name].detach(), tensor + 0.3)
    assert {name.partition(".")[0] for name in learner.model.parameters()} == {MAIN}


def test_consistency_moves_what_is_learned(llama):
    def gradient(consistency):
        learner, batch, _ = begun(llama, consistency=consistency)
        loss = learner.strategy.step(learner.model, batch, NO_REPLAY).loss
        return torch.autograd.grad(loss, next(iter(learner.model.parameters().values())))[0]

    assert (gradient(5.0) - gradient(0.0)).abs().max() > 1e-4


def test_a_setting_out_of_range_is_refused_by_its_key(llama):
    with pytest.raises(ValueError, match=r"strategy\.consistency"):
        begun(llama, consistency=-1.0)

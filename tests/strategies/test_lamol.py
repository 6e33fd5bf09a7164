"""LAMOL: the rows that it writes, and its loss, against naive versions."""

import pytest
import torch
from torch.nn.functional import log_softmax

from lamina.adapters.written_rows import as_texts, write_rows
from lamina.backbones.decoding import Drawn
from lamina.core import ANSWER_AT, generator_of
from lamina.memory.token_rows import put_together, remembered, taken_apart
from language_models import brief_llama
from nouns import NO_REPLAY, make_learner


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny language model that comes to an end, and its stream of calls."""
    return brief_llama(tmp_path_factory.mktemp("llama"))


def learner_of(llama, **settings):
    backbone, stream = llama
    return make_learner("lamol", stream, backbone, **{"longest": 12, **settings})


def mean_loss(model, pairs):
    """Cross-entropy of answers, row by row: a mean over all their tokens."""
    losses = []
    for prompt, answer in pairs:
        one = put_together([(prompt, answer)])
        scores = log_softmax(model(one.inputs).logits[0], dim=1)
        losses += [-scores[place, token] for place, token in enumerate(answer.tolist())]
    return torch.stack(losses).mean()


def test_a_whole_row_is_said_behind_the_end_token_with_one_between_prompt_and_answer(llama):
    data = llama[1].experiences[0].train
    end = llama[0].inputs.end_token
    texts = as_texts(data, end, None)
    for (prompt, answer), (first, rest) in zip(taken_apart(data), taken_apart(texts), strict=True):
        assert first.tolist() == [end]
        assert rest.tolist() == [*prompt.tolist(), end, *answer.tolist()]
        assert answer[-1] == end
    assert torch.equal(texts.labels[:, 0], data.inputs["input_ids"][:, 0])


def test_the_loss_is_of_answers_and_of_whole_rows_over_rows_of_both_kinds(llama):
    learner = learner_of(llama, writing=0.5, share=0.5)
    next(learner.learn())
    strategy, model = learner.strategy, learner.model
    rows = llama[1].experiences[0].train
    strategy.state["written"] = remembered(rows[slice(0, 2)].trimmed())
    batch = llama[1].experiences[1].train[slice(0, 4)].trimmed()
    pairs = [*taken_apart(batch), *taken_apart(rows[slice(0, 2)])]
    end = torch.tensor([llama[0].inputs.end_token])
    texts = [(end, torch.cat([prompt, end, answer])) for prompt, answer in pairs]
    with torch.no_grad():
        found = strategy.step(model, batch, NO_REPLAY).loss
        wanted = mean_loss(model, pairs) + 0.5 * mean_loss(model, texts)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_written_rows_are_what_the_model_says_and_come_to_an_end(llama):
    learner = learner_of(llama)
    model, end = learner.model, llama[0].inputs.end_token
    pairs = write_rows(model, 64, 12, Drawn(generator_of(0, "test"), top_k=20))
    assert 0 < len(pairs) < 64
    for prompt, answer in pairs:
        assert len(prompt) >= 1
        assert end not in prompt
        assert answer[-1] == end
        assert end not in answer[:-1]
        # Each token is among the likeliest behind those before it.
        whole = put_together([(torch.tensor([end]), torch.cat([prompt, torch.tensor([end])]))])
        with torch.no_grad():
            best = model(whole.inputs).logits[0].topk(20, dim=1).indices
        assert all(token in best[at] for at, token in enumerate([*prompt.tolist(), end]))


def test_a_task_begins_with_as_many_written_rows_as_its_share_at_most(llama):
    learner = learner_of(llama, share=2.0)
    reports = learner.learn()
    next(reports)
    assert "written" not in learner.strategy.state
    next(reports)
    kept = learner.strategy.state["written"]
    assert 0 < len(kept["labels"]) <= 24
    assert kept[f"input.{ANSWER_AT}"].min() >= 1


def test_whole_rows_teach_the_model_to_write_them(llama):
    def likelihood(writing):
        learner = learner_of(llama, writing=writing)
        next(learner.learn())
        texts = as_texts(llama[1].experiences[0].train, llama[0].inputs.end_token, None)
        with torch.no_grad():
            return float(mean_loss(learner.model, taken_apart(texts)))

    assert likelihood(2.0) < likelihood(0.0)


def test_a_setting_out_of_range_is_refused_by_its_key(llama):
    with pytest.raises(ValueError, match=r"strategy\.writing"):
        learner_of(llama, writing=-1.0)

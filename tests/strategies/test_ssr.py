"""SSR: what it reads, writes, keeps and replays against naive versions."""

from itertools import permutations

import pytest
import torch
from torch.nn.functional import log_softmax

from lamina.core import generator_of
from lamina.memory.clusters import k_means
from lamina.memory.memory import Replay
from lamina.memory.token_rows import put_together, remembered, taken_apart
from lamina.strategies.ssr import various
from language_models import brief_llama
from nouns import make_learner


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny language model that comes to an end, and its stream of calls."""
    return brief_llama(tmp_path_factory.mktemp("llama"))


def after_one(llama, **settings):
    """A learner that has learned a task and has begun the next, with its rows and a step's
    replay."""
    backbone, stream = llama
    learner = make_learner("ssr", stream, backbone, **{"attempts": 64, "longest": 12, **settings})
    next(learner.learn())
    experience = stream.experiences[1]
    learner.strategy.begin_task(learner.model, experience.task, None)
    replay = Replay(learner.memory, learner.rows, 0, "cpu")
    return learner, experience.train[slice(0, 4)].trimmed(), replay


def test_the_frozen_model_reads_examples_of_one_task_each_ending_in_the_end_token(llama):
    learner, _, replay = after_one(llama, examples=2)
    kept = replay.draw(8, "examples")
    kept.extras["task"][4:] = 1
    end = torch.tensor([llama[0].inputs.end_token])
    rows = [torch.cat([p, end, a]).tolist() for p, a in taken_apart(kept)]
    shots = learner.strategy.few_shots(learner.model, kept, generator_of(0, "test"))
    assert len(shots) == 64
    seen = set()
    for read in shots:
        first, second = next(
            (one, two)
            for one, two in permutations(range(8), 2)
            if read.tolist() == rows[one] + rows[two]
        )
        assert (first < 4) == (second < 4)
        seen.add(first < 4)
    assert seen == {True, False}


def test_of_each_cluster_the_nearest_to_its_centre_are_kept_by_its_share():
    features = torch.cat([torch.randn(12, 3), torch.randn(6, 3) + 20])
    chosen = various(features, 2, 6, generator_of(0, "test"))
    centres = k_means(features, 2, generator_of(0, "test"))
    expected = set()
    for centre in centres:
        distances = (features - centre).norm(dim=1)
        others = torch.stack([(features - each).norm(dim=1) for each in centres]).amin(dim=0)
        own = [row for row in range(18) if distances[row] == others[row]]
        expected |= set(sorted(own, key=lambda row: float(distances[row]))[: len(own) // 3])
    assert set(chosen) == expected
    assert len(chosen) == 6


def test_prompts_are_the_frozen_models_and_answers_the_latest_models(llama):
    learner, batch, replay = after_one(llama, kept=24, clusters=3)
    model, end = learner.model, llama[0].inputs.end_token
    learner.strategy.step(model, batch, replay)
    kept = learner.strategy.state["written"]
    inputs = {k.removeprefix("input."): v for k, v in kept.items() if k != "labels"}
    number = len(kept["labels"])
    assert number > 0
    for row in range(number):
        shown = inputs["attention_mask"][row].bool()
        ids, at = inputs["input_ids"][row][shown], int(inputs["lamina_answer_at"][row])
        prompt, answer = ids[:at], ids[at:]
        assert end not in prompt
        with torch.no_grad():
            (said,) = model.generate(put_together([(prompt, prompt[:0])]).inputs, 12)
        assert said.tolist() == answer.tolist()


def test_the_loss_is_over_rows_of_the_task_and_written_ones(llama):
    learner, batch, replay = after_one(llama, replay_size=2)
    rows = llama[1].experiences[0].train[slice(0, 2)].trimmed()
    learner.strategy.state["written"] = remembered(rows)
    losses = []
    with torch.no_grad():
        found = learner.strategy.step(learner.model, batch, replay).loss
        for prompt, answer in [*taken_apart(batch), *taken_apart(rows)]:
            one = put_together([(prompt, answer)])
            scores = log_softmax(learner.model(one.inputs).logits[0], dim=1)
            losses += [-scores[at, token] for at, token in enumerate(answer.tolist())]
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-4, rtol=1e-4)


def test_written_rows_move_what_is_learned(llama):
    def learned(replay_size):
        learner = make_learner(
            "ssr", llama[1], llama[0], attempts=64, longest=12, replay_size=replay_size
        )
        list(learner.learn())
        return next(iter(learner.model.adapters["main"].tensors.values()))

    assert (learned(8) - learned(0)).abs().max() > 1e-4

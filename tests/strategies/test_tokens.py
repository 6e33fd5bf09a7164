"""What strategies promise on streams whose answers are tokens."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.core import ANSWER_AT, IGNORED, Batch
from lamina.strategies import strategy_class, strategy_names
from lamina.training.checkpoint import pack, unpack
from lamina.training.cohort import Cohort, shared
from lamina.training.evaluate import answers
from lamina.training.generate import generate, generated_tokens
from lamina.training.settings import TrainingSettings
from language_models import CONFIGS, calls_stream, write_model
from nouns import make_learner
from two_workers import Case, digest, train_by_one, train_by_two, with_products

TAKE_TOKENS = [name for name in strategy_names() if "tokens" in strategy_class(name).answers]
PREFIXES = ("coda_prompt", "dualprompt")
"""Their prefixes are as wide as tokens, and the keys of the tiny Llama are not."""
STEADY = {
    "c_lora": {"strength": 1e-4},
    "cl_moe": {"picked": 4},
    "sdft": {"temperature": 0.0},
}
"""Settings without a choice that may turn on a rounding: of experts that are nearly even at first,
of a token that is drawn. And a penalty that plain gradients bear."""
TRAINING = TrainingSettings(epochs=4, batch_size=4, learning_rate=3e-2)
SHORT = replace(TRAINING, epochs=1)
PLAIN = replace(TRAINING, epochs=2, optimizer="sgd", learning_rate=3e-3)
"""Steps in proportion to gradients: Adam's are as large for a gradient that is rounding alone."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each tiny language model with its stream of calls, made once."""
    made = {}

    def of(name):
        if name not in made:
            folder = write_model(name, tmp_path_factory.mktemp(name))
            backbone = load_backbone(BackboneSettings(str(folder)))
            made[name] = backbone, calls_stream(backbone)
        return made[name]

    return of


def model_for(strategy):
    return "gpt2" if strategy in PREFIXES else "llama"


def learner_of(strategy, models, model=None, training=SHORT):
    backbone, stream = models(model or model_for(strategy))
    scenarios = strategy_class(strategy).scenarios
    kind = "domain_incremental" if "domain_incremental" in scenarios else scenarios[0]
    stream = replace(stream, scenario=kind)
    return make_learner(strategy, stream, backbone, training=training, **STEADY.get(strategy, {}))


@pytest.mark.parametrize("model", list(CONFIGS))
def test_fine_tuning_learns_to_answer(model, models):
    learner = learner_of("finetune", models, model, TRAINING)
    data = learner.stream.experiences[0].train
    with torch.no_grad():
        before = learner.model(data.inputs).logits
    next(learner.learn())
    with torch.no_grad():
        after = learner.model(data.inputs).logits
    losses = [
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), data.labels.flatten(), ignore_index=IGNORED
        )
        for logits in (before, after)
    ]
    assert losses[1] < 0.95 * losses[0]


@pytest.fixture(scope="module")
def begun(models):
    """Each strategy's learner that has begun: at its first report, with the rest to come. Made
    once; and its checkpoint."""

    @cache
    def of(name):
        learner = learner_of(name, models)
        reports = learner.learn()
        first = next(reports)
        return learner, first, reports, pack(learner.state_dict())

    return of


@pytest.mark.parametrize("name", TAKE_TOKENS)
def test_it_goes_through_a_stream_of_calls_and_on_from_a_checkpoint(name, models, begun):
    learner, first, reports, saved = begun(name)
    assert not first.done or strategy_class(name).data == "all"
    last = [first, *reports][-1]
    assert None not in last.test
    resumed = learner_of(name, models)
    resumed.load_state_dict(unpack(saved))
    list(resumed.learn())
    assert digest(resumed) == digest(learner)


@pytest.mark.parametrize("name", TAKE_TOKENS)
def test_it_is_the_same_packed_and_alone(name, models):
    backbone, _stream = models(model_for(name))
    alone = learner_of(name, models, training=PLAIN)
    list(alone.learn())
    cohort = Cohort(most_rows=64)
    view = shared(backbone)
    together = [
        make_learner(name, alone.stream, view, training=PLAIN, seed=seed, **STEADY.get(name, {}))
        for seed in (0, 1)
    ]
    for seed, each in enumerate(together):
        cohort.add(str(seed), each)
    left = {"0", "1"}
    while left:
        for boundary in cohort.advance():
            assert boundary.error is None
            if boundary.report is None:
                cohort.remove(boundary.name)
                left.discard(boundary.name)
            else:
                cohort.go_on(boundary.name)
    packed = together[0].model.adapters
    for key, adapter in alone.model.adapters.items():
        for tensor, value in adapter.tensors.items():
            torch.testing.assert_close(packed[key].tensors[tensor], value, atol=1e-4, rtol=1e-3)


WRITERS = {"lamol": 8.0, "lfpt5": 20.0, "ssr": 4.0}
"""Strategies that draw rows which the model wrote, and how eager it is to end them: so that some
come to an end."""
DRAWING = {
    "lamol": (("share", 1.0), ("longest", 12)),
    "lfpt5": (("share", 3.0), ("longest", 16)),
    "ssr": (("attempts", 40), ("longest", 16)),
    "adaptive_merging": (),
    "der_pp": (),
    "er": (),
    "i_lora": (),
    "sapt": (),
}
"""Strategies whose loss is of the batch and of what they draw, with settings under which they draw
some."""


@pytest.fixture(scope="module")
def by_two(models, tmp_path_factory):
    """What two workers have after their stream, by case."""
    folder = models("llama")[0].settings.name
    cases = {
        name: Case(name, Path(folder), "llama", eagerness=WRITERS.get(name), settings=own)
        for name, own in DRAWING.items()
    }
    found = train_by_two(list(cases.values()), tmp_path_factory.mktemp("two_workers"))
    return {name: (case, found[case]) for name, case in cases.items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", DRAWING)
def test_two_workers_share_what_is_drawn_beside_answers_of_any_length(name, by_two):
    case, (first, second) = by_two[name]
    assert (first["learned"], first["test"]) == (second["learned"], second["test"])
    alone = train_by_one(case)
    if name in WRITERS:
        assert len(alone["kept"]["written"]["labels"]) > 1
    ours, theirs = with_products(first["tensors"]), with_products(alone["tensors"])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", TAKE_TOKENS)
def test_what_it_says_is_right_by_exact_match_where_its_logits_are_best_at_every_token(
    name, models, begun
):
    learner = learner_of(name, models)
    learner.load_state_dict(unpack(begun(name)[-1]))
    strategy, model = learner.strategy, learner.model
    experience = learner.stream.experiences[0]
    task = experience.task if learner.stream.scenario == "task_incremental" else None
    data, most = experience.test, experience.test.labels.shape[1]
    tokens = generated_tokens(strategy, model, data, task, most)
    # Each is the best one behind those that were said before it.
    before = data.inputs[ANSWER_AT][:, None] + torch.arange(tokens.shape[1])
    room = torch.nn.functional.pad(data.inputs["input_ids"], (0, most))
    written = {
        "input_ids": room.scatter(1, before, tokens.clamp_min(0)),
        "attention_mask": (
            torch.arange(room.shape[1]) < (before[:, :1] + (tokens != IGNORED).sum(1)[:, None])
        ).long(),
        ANSWER_AT: data.inputs[ANSWER_AT],
    }
    again = answers(strategy, model, Batch(written, tokens, data.ids), task, 16)
    assert bool(again.right.all())
    given = answers(strategy, model, data, task, 16)
    same = (
        torch.nn.functional.pad(tokens, (0, most - tokens.shape[1]), value=IGNORED) == data.labels
    )
    assert torch.equal(same.all(dim=1), given.right)


def test_answers_to_prompts_are_texts_whatever_their_company(models):
    learner = learner_of("finetune", models)
    next(learner.learn())
    prompts = ["the kitchen please", "attic"]
    both = generate(learner.strategy, learner.model, prompts, max_new_tokens=6)
    alone = [
        generate(learner.strategy, learner.model, [each], max_new_tokens=6)[0] for each in prompts
    ]
    assert both == alone
    assert generate(learner.strategy, learner.model, []) == []

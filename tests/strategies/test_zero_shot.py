"""Zero-shot: its losses, state and answers against naive versions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lamina.core import Samples
from lamina.strategies import strategy_class
from lamina.strategies.zero_shot import in_words
from nouns import NOUNS, after, make_learner


def test_zero_shot_compares_inputs_with_class_names_by_cosine(nouns, tiny_bert):
    learner = make_learner("zero_shot", nouns, tiny_bert)
    list(learner.learn())
    test = nouns.experiences[1].test
    names = torch.cat(
        [
            tiny_bert(
                tiny_bert.encode(Samples([name], torch.zeros(1), torch.zeros(1))).inputs
            ).features
            for name in NOUNS
        ]
    )
    query = tiny_bert(test.inputs).features
    naive = torch.stack([F.cosine_similarity(query, name[None]) for name in names], dim=1)
    logits = learner.strategy.predict(learner.model, test.inputs, None)
    torch.testing.assert_close(logits, naive, atol=1e-4, rtol=1e-4)


def test_zero_shot_knows_a_class_from_the_task_that_shows_it(nouns, tiny_bert):
    learner, data = after(1, "zero_shot", nouns, tiny_bert)
    learner.model.grow_head(6)
    stranger = replace(nouns.experiences[2].task, classes=(5,), class_names=("fan",))
    learner.strategy.begin_task(learner.model, stranger, None)
    logits = learner.strategy.predict(learner.model, data.inputs, None)
    assert logits[:, [0, 1, 2, 3, 5]].isfinite().all()
    assert (logits[:, 4] == float("-inf")).all()


def test_zero_shot_template_moves_the_result_and_plain_is_the_name(nouns, tiny_bert):
    def logits(**settings):
        learner = make_learner("zero_shot", nouns, tiny_bert, **settings)
        list(learner.learn())
        return learner.strategy.predict(learner.model, nouns.experiences[0].test.inputs, None)

    assert torch.equal(logits(), logits(template="{}"))
    assert (logits() - logits(template="this is about the {}")).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"strategy\.template"):
        strategy_class("zero_shot")(template="about the")


def test_zero_shot_reads_identifiers_as_words_and_no_images():
    assert in_words("HassTurnOn/light") == "Hass Turn On light"
    assert in_words("set_alarm-clock") == "set alarm clock"
    assert in_words("USA2News.final cut") == "USA2 News final cut"
    assert strategy_class("zero_shot").modalities == ("text",)

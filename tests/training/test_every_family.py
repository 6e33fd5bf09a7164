"""What a learner promises on every family of backbones, whether its answers are classes or tokens.

That clients learn what one learner does is in `federation/client/test_token_clients.py`.
"""

import pytest
import torch
from torch.nn.functional import pad

from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.model import AdaptedModel
from lamina.backbones.answers import OF_DECODER
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.core import IGNORED, Batch
from lamina.training.settings import TrainingSettings
from language_models import CONFIGS, MORE, SEQ2SEQ, UNEVEN, calls_stream, loaded, write_model
from nouns import make_learner, nouns_stream
from resuming import goes_on
from two_workers import Case, train_by_one, train_by_two

FAMILIES = ["bert", "llama", "qwen2", "gpt2", "t5"]
EVERY = ["bert", *CONFIGS, *MORE, *SEQ2SEQ]
LONG = TrainingSettings(epochs=2, batch_size=4, learning_rate=1e-2, schedule="linear")


@pytest.fixture(scope="module")
def models(tiny_bert_folder, tmp_path_factory):
    """Each tiny model's folder, backbone and stream, made once."""
    made = {}

    def of(name):
        if name not in made:
            if name == "bert":
                folder = tiny_bert_folder
                backbone = load_backbone(BackboneSettings(str(folder)))
                stream = nouns_stream(backbone)
            else:
                folder = write_model(name, tmp_path_factory.mktemp(name))
                backbone = loaded(name, folder)
                stream = calls_stream(backbone, UNEVEN)
            made[name] = folder, backbone, stream
        return made[name]

    return of


def adapted(backbone) -> AdaptedModel:
    """Under a LoRA that changes answers, with a head of two classes."""
    model = AdaptedModel(backbone, LoRA(rank=2), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.add().tensors.items():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, generator=generator)
    model.grow_head(2)
    return model


def padded(batch: Batch, by: int) -> Batch:
    """Rows that stand among longer ones, by so many tokens."""
    inputs = {
        name: pad(each, (0, by)) if each.dim() == 2 and name not in OF_DECODER else each
        for name, each in batch.inputs.items()
    }
    return Batch(inputs, batch.labels, batch.ids)


@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_order_padding_and_company_of_rows_change_no_answer(name, models):
    _, backbone, stream = models(name)
    model, batch = adapted(backbone), stream.experiences[1].train
    together = model(batch.inputs)
    close = 1e-5 * float(together.logits.abs().max())
    backwards = torch.arange(len(batch)).flip(0)
    alone = [batch[slice(row, row + 1)].trimmed() for row in (0, 5, 9)]
    asked = [batch[backwards], padded(batch, 3), *alone, *(padded(each, 2) for each in alone)]
    place = {number: row for row, number in enumerate(batch.ids.tolist())}
    for rows in asked:
        found, own = model(rows.inputs), [place[number] for number in rows.ids.tolist()]
        counts, wanted = rows.labels != IGNORED, together.logits[own]
        if counts.dim() == 2:  # What follows a shorter answer is of no account.
            wanted = wanted[:, : counts.shape[1]]
        torch.testing.assert_close(found.logits[counts], wanted[counts], atol=close, rtol=1e-4)
        torch.testing.assert_close(found.features, together.features[own], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_goes_on_from_within_a_task_bit_equal(name, models):
    _, backbone, stream = models(name)
    goes_on(lambda: make_learner("er", stream, backbone, training=LONG), every=4)


@pytest.fixture(scope="module")
def by_two(models, tmp_path_factory):
    """What two workers have after their stream, by case."""
    cases = [case_of(name, models) for name in FAMILIES]
    return train_by_two(cases, tmp_path_factory.mktemp("two_workers"))


def case_of(name, models) -> Case:
    """Replay, whose loss has as many terms as the answers of rows and exemplars have tokens."""
    return Case("er", models(name)[0], None if name == "bert" else name, rate=0.3)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FAMILIES)
def test_two_data_parallel_workers_learn_what_one_does(name, models, by_two):
    case = case_of(name, models)
    first, second = by_two[case]
    assert (first["learned"], first["test"]) == (second["learned"], second["test"])
    alone = train_by_one(case)
    torch.testing.assert_close(first["tensors"], alone["tensors"], atol=1e-5, rtol=1e-3)

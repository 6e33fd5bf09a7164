"""Merging against naive loops and against PEFT, on tensors and on a real PEFT model."""

import peft
import pytest
import torch
from peft.utils import merge_utils
from transformers import AutoModel

from lamina.adapters import kind_class
from lamina.adapters.kinds.lora import PEFT_PREFIX, modules_of
from lamina.adapters.merging import (
    added,
    dare,
    magmax,
    task_vector,
    ties,
    trim,
    weighted_lora,
)
from lamina.core import generator_of

WEIGHTS = [0.3, 0.9]
NAMES = ["first", "second"]


def vectors(number=3, shapes=((5, 7), (6,))):
    """Task vectors of two tensors."""
    generator = generator_of(0, "vectors")
    return [
        {f"w{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
        for _ in range(number)
    ]


def flat(vector):
    return torch.cat([tensor.flatten() for tensor in vector.values()])


@pytest.fixture(scope="module")
def loras(tiny_bert):
    """Two LoRAs none of whose tensors is zero."""
    kind = kind_class("lora")(rank=4, alpha=6.0)
    generator = generator_of(0, "loras")
    return kind, [
        {
            name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in kind.initialise(tiny_bert, generator).items()
        }
        for _ in range(2)
    ]


@pytest.fixture(scope="module")
def in_peft(tiny_bert_folder, loras):
    """The same two as adapters of a PEFT model."""
    _, tensors = loras
    config = peft.LoraConfig(r=4, lora_alpha=6.0, target_modules=["query", "value"])
    model = peft.get_peft_model(AutoModel.from_pretrained(tiny_bert_folder), config, NAMES[0])
    model.add_adapter(NAMES[1], config)
    for name, each in zip(NAMES, tensors, strict=True):
        state = {PEFT_PREFIX + key: value for key, value in each.items()}
        peft.set_peft_model_state_dict(model, state, name)
    return model.eval()


def deltas(model, name):
    """What a PEFT adapter adds to each weight."""
    return {
        path.removeprefix("base_model.model."): module.get_delta_weight(name).detach()
        for path, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def products(kind, tensors):
    """alpha / rank B A of every module."""
    return {
        module: kind.alpha
        / kind.rank
        * tensors[f"{module}.lora_B.weight"]
        @ tensors[f"{module}.lora_A.weight"]
        for module in modules_of(tensors)
    }


def test_a_task_vector_added_to_its_origin_is_what_was_trained():
    origin, trained = vectors(2)
    again = added(origin, task_vector(trained, origin))
    for name, tensor in trained.items():
        torch.testing.assert_close(again[name], tensor)
    nothing = added(origin, task_vector(trained, origin), 0.0)
    assert all(torch.equal(nothing[name], origin[name]) for name in origin)


def weighted_sum(tensors, weights):
    """sum_t w_t tau_t, added one by one as the strategies do."""
    total = {name: torch.zeros_like(tensor) for name, tensor in tensors[0].items()}
    for vector, weight in zip(tensors, weights, strict=True):
        total = added(total, vector, weight)
    return total


def test_task_arithmetic_is_the_weighted_sum_and_pefts():
    first, second = vectors(2)
    merged = weighted_sum([first, second], WEIGHTS)
    for name in first:
        torch.testing.assert_close(merged[name], 0.3 * first[name] + 0.9 * second[name])
        theirs = merge_utils.task_arithmetic([first[name], second[name]], torch.tensor(WEIGHTS))
        torch.testing.assert_close(merged[name], theirs)


def test_trim_keeps_the_largest_share_over_all_tensors_together():
    vector = vectors(1)[0]
    vector["w1"] = 10 * vector["w1"]
    sizes = flat(vector).abs().sort(descending=True).values
    kept = flat(trim(vector, 0.2))
    assert int((kept != 0).sum()) == int(0.2 * len(sizes)) == 8
    bar = sizes[7]
    naive = torch.tensor([x if abs(x) >= bar else 0.0 for x in flat(vector).tolist()])
    torch.testing.assert_close(kept, naive)
    assert (trim(vector, 0.2)["w1"] != 0).all()


def test_ties_trims_elects_and_averages_entry_by_entry():
    several = vectors(3)
    merged = flat(ties(several, 0.5))
    trimmed = [flat(trim(each, 0.5)).tolist() for each in several]
    for entry, values in zip(merged.tolist(), zip(*trimmed, strict=True), strict=True):
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [value for value in values if value * sign > 0]
        assert entry == pytest.approx(sum(agreeing) / len(agreeing) if agreeing else 0.0)


def test_ties_of_one_tensor_is_pefts():
    several = [{"w": each["w0"]} for each in vectors(3)]
    theirs = merge_utils.ties([each["w"] for each in several], torch.ones(3), 0.4)
    torch.testing.assert_close(ties(several, 0.4)["w"], theirs)


def test_ties_of_one_task_is_what_was_kept_of_it_and_keeps_all_at_density_one():
    several = vectors(3)
    assert torch.equal(flat(ties(several[:1], 0.3)), flat(trim(several[0], 0.3)))
    assert torch.equal(flat(ties(several[:1], 1.0)), flat(several[0]))


def test_dare_draws_pefts_masks_and_its_mean_is_what_went_in():
    first, second = vectors(2)
    generator = torch.Generator().manual_seed(5)
    mine = [dare({"w": each["w0"]}, 0.7, generator)["w"] for each in (first, second)]
    torch.manual_seed(5)
    tensors = [first["w0"], second["w0"]]
    theirs = merge_utils.dare_linear(tensors, torch.tensor(WEIGHTS), 1 - 0.7)
    torch.testing.assert_close(0.3 * mine[0] + 0.9 * mine[1], theirs)
    draws = [dare(first, 0.7, generator_of(draw)) for draw in range(3000)]
    mean = torch.stack([flat(each) for each in draws]).mean(0)
    torch.testing.assert_close(mean, flat(first), atol=0.2, rtol=0)
    share = torch.stack([(flat(each) == 0).float() for each in draws]).mean()
    assert share == pytest.approx(0.7, abs=0.01)


def test_dare_that_drops_nothing_changes_nothing():
    vector = vectors(1)[0]
    assert torch.equal(flat(dare(vector, 0.0, generator_of(0))), flat(vector))


def test_magmax_keeps_the_entry_of_largest_size_of_all():
    first, second, third = vectors(3)
    merged = flat(magmax(magmax(first, second), third))
    columns = zip(*(flat(each).tolist() for each in (first, second, third)), strict=True)
    assert merged.tolist() == [max(values, key=abs) for values in columns]
    later = magmax({"w": torch.tensor([-1.0])}, {"w": torch.tensor([1.0])})
    assert later["w"].item() == 1.0


def test_weighted_lora_is_pefts_cat_and_the_sum_of_the_products(
    tiny_bert, loras, in_peft, sentences
):
    kind, (first, second) = loras
    merged = weighted_lora([first, second], WEIGHTS)
    in_peft.add_weighted_adapter(NAMES, WEIGHTS, "cat", combination_type="cat")
    theirs = deltas(in_peft, "cat")
    own = [products(kind, each) for each in (first, second)]
    for module, product in products(kind, merged).items():
        assert merged[f"{module}.lora_A.weight"].shape[0] == 8
        torch.testing.assert_close(product, 0.3 * own[0][module] + 0.9 * own[1][module])
        torch.testing.assert_close(product, theirs[module])
    in_peft.set_adapter("cat")
    with torch.no_grad():
        hidden = in_peft(**sentences.inputs).last_hidden_state
    mask = sentences.inputs["attention_mask"][:, :, None].float()
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    laid_over = tiny_bert(sentences.inputs, kind.overlay(merged, tiny_bert)).features
    torch.testing.assert_close(laid_over, pooled, atol=1e-5, rtol=0)


def test_a_sum_of_factors_is_not_the_sum_of_products(loras):
    kind, (first, second) = loras
    exact = products(kind, weighted_lora([first, second], [1.0, 1.0]))
    factors = products(kind, weighted_sum([first, second], [1.0, 1.0]))
    assert all((exact[module] - factors[module]).abs().max() > 0.1 for module in exact)


def test_ties_of_the_products_is_pefts_ties_of_the_weights(loras, in_peft):
    kind, tensors = loras
    own = [products(kind, each) for each in tensors]
    in_peft.add_weighted_adapter(
        NAMES, [1.0, 1.0], "ties", combination_type="ties_svd", density=0.4, svd_rank=32
    )
    for module, theirs in deltas(in_peft, "ties").items():
        merged = ties([{module: each[module]} for each in own], 0.4)
        torch.testing.assert_close(merged[module], theirs, atol=1e-5, rtol=1e-4)

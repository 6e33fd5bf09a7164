"""LoRAMoE: its constraint and loss against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.expert_shares import with_shares
from lamina.adapters.model import MAIN
from lamina.core import Batch
from lamina.memory.memory import Replay
from lamina.strategies.loramoe import imbalance
from lora_cases import shaken
from nouns import after, make_learner


def naive_imbalance(shares, kinds, leaning):
    z = []
    for row, kind in zip(shares.tolist(), kinds, strict=True):
        for expert, share in enumerate(row):
            own = "kept" if expert < len(row) // 2 else "new"
            z.append(share * (1 + leaning if own == kind else 1 - leaning))
    mean = sum(z) / len(z)
    return sum((each - mean) ** 2 for each in z) / (len(z) - 1) / mean**2


def test_the_imbalance_is_the_squared_coefficient_of_variation_of_what_experts_got():
    shares = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    kinds = ["new", "new", "kept", "new", "kept"]
    is_kept = torch.tensor([kind == "kept" for kind in kinds])
    found = imbalance(shares, is_kept, 0.3)
    assert float(found) == pytest.approx(naive_imbalance(shares, kinds, 0.3), rel=1e-4)


def test_the_shares_of_a_row_are_the_gates_over_its_own_tokens(nouns, tiny_bert):
    learner, data = after(1, "loramoe", nouns, tiny_bert)
    shaken(learner)
    output, shares = with_shares(learner.model, data.inputs)
    torch.testing.assert_close(output.logits, learner.model(data.inputs).logits)
    module = next(iter(shares))
    gate = learner.model.adapters[MAIN].tensors[f"{module}.gate.weight"]
    for row, one in enumerate(data.chunks(1)):
        tokens = learner.model.inputs_at(one.inputs, [module])[module]
        expected = (tokens @ gate.T).softmax(dim=1).sum(dim=0)
        torch.testing.assert_close(shares[module][row], expected, atol=1e-4, rtol=1e-4)


def test_the_loss_is_that_of_replay_and_the_constraint(nouns, tiny_bert):
    learner, data = after(1, "loramoe", nouns, tiny_bert, balance=0.7, leaning=0.2, replay_size=3)
    shaken(learner)
    replay = Replay(learner.memory, learner.rows, 5, "cpu")
    exemplars = replay.draw(3)
    joined = Batch.cat([data, exemplars])
    plain = F.cross_entropy(learner.model(joined.inputs).logits, joined.labels)
    kinds = ["new"] * len(data) + ["kept"] * 3
    _, shares = with_shares(learner.model, joined.inputs)
    each = [naive_imbalance(value, kinds, 0.2) for value in shares.values()]
    found = learner.strategy.step(learner.model, data, replay).loss
    torch.testing.assert_close(found, plain + 0.7 * sum(each) / len(each), atol=1e-4, rtol=1e-4)


def test_leaning_makes_the_shares_of_the_halves_uneven(nouns, tiny_bert):
    def kept_share(leaning):
        learner = make_learner("loramoe", nouns, tiny_bert, balance=20.0, leaning=leaning)
        list(learner.learn())
        kept = learner.memory.draw(8, learner.rows, step=0)
        with torch.no_grad():
            _, shares = with_shares(learner.model, kept.inputs)
        got = torch.stack([each.sum(dim=0) for each in shares.values()]).sum(dim=0)
        return float(got[:2].sum() / got.sum())

    assert kept_share(0.9) < kept_share(0.0) < kept_share(-0.9)


def test_a_leaning_out_of_range_is_refused_by_its_key(nouns, tiny_bert):
    with pytest.raises(ValueError, match=r"strategy\.leaning"):
        make_learner("loramoe", nouns, tiny_bert, leaning=1.5)

"""SLAO: its start and its merge against naive versions."""

import pytest
import torch

from lamina.adapters.kinds.lora import downs
from lamina.adapters.model import MAIN
from lamina.strategies.slao import orthonormal_rows
from merging_cases import merged_of
from nouns import after, make_learner


def test_slao_starts_a_task_at_an_orthonormal_basis_of_what_the_last_a_reads(nouns, tiny_bert):
    learner = make_learner("slao", nouns, tiny_bert)
    next(learner.learn())
    before = {k: v.clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
    again, _ = after(1, "slao", nouns, tiny_bert)
    started = again.model.adapters[MAIN].tensors
    for module, a in downs(started).items():
        torch.testing.assert_close(a @ a.T, torch.eye(len(a)), atol=1e-5, rtol=0)
        last = before[f"{module}.lora_A.weight"]
        torch.testing.assert_close(last @ a.T @ a, last, atol=1e-5, rtol=1e-4)
        # Gram-Schmidt of the rows, as Q R with a positive diagonal is.
        torch.testing.assert_close(a[0], last[0] / last[0].norm(), atol=1e-5, rtol=1e-4)
        name = f"{module}.lora_B.weight"
        assert torch.equal(started[name], before[name])


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_slao_keeps_the_last_a_and_moves_b_by_a_share_that_falls(power, nouns, tiny_bert):
    learner = make_learner("slao", nouns, tiny_bert, power=power)
    merged = None
    for number, _ in enumerate(learner.learn(), start=1):
        now = {k: v.detach().clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
        merged = merged or now
        share = 1 / number**power
        merged = {
            k: v if "lora_A" in k else merged[k] + share * (v - merged[k]) for k, v in now.items()
        }
    found = merged_of(learner)
    for name, tensor in merged.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


def test_with_power_1_b_is_the_mean_of_all_tasks_and_with_0_the_last(nouns, tiny_bert):
    def learned(power):
        learner, all_b = make_learner("slao", nouns, tiny_bert, power=power), []
        for _ in learner.learn():
            main = learner.model.adapters[MAIN].tensors
            all_b.append(next(v.clone() for k, v in main.items() if "lora_B" in k))
        return next(v for k, v in merged_of(learner).items() if "lora_B" in k), all_b

    mean, all_b = learned(1.0)
    torch.testing.assert_close(mean, torch.stack(all_b).mean(dim=0), atol=1e-6, rtol=1e-4)
    last, all_b = learned(0.0)
    assert torch.equal(last, all_b[-1])
    assert not torch.equal(last, mean)


def test_the_signs_of_orthonormal_rows_do_not_depend_on_the_library():
    a = torch.tensor([[-3.0, 0.0, 0.0], [1.0, -2.0, 0.0]])
    torch.testing.assert_close(orthonormal_rows(a), torch.tensor([[-1.0, 0, 0], [0, -1.0, 0]]))

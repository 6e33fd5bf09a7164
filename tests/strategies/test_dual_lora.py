"""DualLoRA: its losses, state and answers against naive versions."""

import torch

from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.succession import current
from lamina.core import generator_of
from lamina.memory.subspace import recalled
from lamina.strategies.dual_lora import ResidualPatch
from lora_cases import a_of, descend
from nouns import after, make_learner


def test_dual_lora_memory_turns_residuals_down_token_by_token():
    generator = generator_of(0, "tokens")
    psi = torch.linalg.qr(torch.randn(6, 4, generator=generator)).Q.T.contiguous()
    b = torch.randn(5, 4, generator=generator)
    x, y = torch.randn(2, 3, 6, generator=generator), torch.randn(2, 3, 5, generator=generator)
    shares = torch.tensor([0.2, 0.7])
    ours = ResidualPatch(psi, b, shares)(x, y)
    for n in range(2):
        for s in range(3):
            expected = y[n, s].clone()
            for t in range(2):
                rows, columns = psi[2 * t : 2 * t + 2], b[:, 2 * t : 2 * t + 2]
                share = (rows @ x[n, s]).square().sum() / x[n, s].square().sum()
                memory = min(1.0, float(share / shares[t]))
                expected += memory * columns @ (rows @ x[n, s])
            torch.testing.assert_close(ours[n, s], expected, atol=1e-5, rtol=1e-5)


def test_dual_lora_leaves_old_inputs_alone_under_adam_too(nouns, tiny_bert):
    learner, data = after(1, "dual_lora", nouns, tiny_bert, threshold=0.9)
    model, kept = learner.model, learner.strategy.state["subspaces"]
    before = {k: v.detach().clone() for k, v in current(model).tensors.items()}
    descend(learner, data)
    new = current(model).tensors
    for module in modules_of(new):
        taken = torch.eye(32) - recalled(kept, module, torch.eye(32)).outside(torch.eye(32))
        assert taken.square().sum() >= 1
        assert (a_of(new, module) @ taken).abs().max() < 1e-5
        assert (a_of(new, module) - a_of(before, module)).abs().max() > 1e-3
        psi = a_of(model.adapters["residual_1"].tensors, module)
        assert (psi @ taken).abs().max() < 1e-5
        torch.testing.assert_close(psi @ psi.T, torch.eye(8), atol=1e-4, rtol=0)


def test_dual_lora_trains_b_of_the_residual_and_all_of_the_orthogonal_one(nouns, tiny_bert):
    learner, data = after(1, "dual_lora", nouns, tiny_bert, threshold=0.5)
    trained = {name for name in learner.model.parameters() if not name.startswith("head.")}
    assert {name.split(".")[0] for name in trained} == {"task_1", "residual_1"}
    assert not any("residual_1" in name and ".lora_A." in name for name in trained)
    old = {k: v.clone() for k, v in learner.model.adapters["residual_0"].tensors.items()}
    before = learner.strategy.predict(learner.model, data.inputs, None)
    descend(learner, data)
    kept = learner.model.adapters["residual_0"].tensors
    assert all(torch.equal(old[name], value) for name, value in kept.items())
    assert (learner.strategy.predict(learner.model, data.inputs, None) != before).any()


def test_dual_lora_threshold_says_how_much_is_taken(nouns, tiny_bert):
    def size(threshold):
        learner, _ = after(1, "dual_lora", nouns, tiny_bert, threshold=threshold)
        new = current(learner.model).tensors
        return sum(a_of(new, module).square().sum() for module in modules_of(new))

    untouched = make_learner("olora", nouns, tiny_bert)
    untouched.strategy.begin_task(untouched.model, nouns.experiences[1].task, None)
    tensors = current(untouched.model).tensors
    free = sum(a_of(tensors, module).square().sum() for module in modules_of(tensors))
    assert size(0.0) == free
    assert size(1.0) < 0.7 * size(0.9) < 0.7 * free

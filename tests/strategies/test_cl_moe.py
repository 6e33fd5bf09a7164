"""CL-MoE: its merge, its task router and its answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.adapters.expert_shares import with_shares
from lamina.adapters.kinds.lora_mixture import gated_modules
from lamina.adapters.model import MAIN
from lamina.backbones.overlay import Overlay, Site
from lamina.core import Task
from lamina.strategies.cl_moe import momenta
from lora_cases import shaken
from nouns import after, make_learner
from recent_prompt_cases import learned, predict


def test_only_experts_that_the_new_task_picks_alone_keep_little():
    kept = momenta(5, torch.tensor([0, 3]), torch.tensor([3, 4, 4]), 0.7)
    torch.testing.assert_close(kept, torch.tensor([0.3, 0.7, 0.7, 0.7, 0.7]))


def test_cl_moe_merges_each_expert_with_what_it_was_by_who_picked_it(nouns, tiny_bert):
    learner, data = after(1, "cl_moe", nouns, tiny_bert, momentum=0.8, picked=1)
    model = learner.model
    before = {k: v.clone() for k, v in model.adapters[MAIN].tensors.items()}
    learned(learner, data)
    now = {k: v.detach().clone() for k, v in model.adapters[MAIN].tensors.items()}
    review = learner.summarise(learner.strategy.review, data)
    past = dict(learner.strategy.state["picks"][0])
    learner.strategy.end_task(model, nouns.experiences[1].task, review)
    rank = model.kind.rank
    for module in gated_modules(now):
        picked = int(review[f"shares.{module}"].argmax())
        for expert in range(model.kind.experts):
            alone = expert == picked and expert not in past[module].tolist()
            share = 0.2 if alone else 0.8
            rows = slice(expert * rank, (expert + 1) * rank)
            a, b = f"{module}.experts_A.weight", f"{module}.experts_B.weight"
            found = model.adapters[MAIN].tensors
            torch.testing.assert_close(
                found[a][rows], share * before[a][rows] + (1 - share) * now[a][rows]
            )
            torch.testing.assert_close(
                found[b][:, rows], share * before[b][:, rows] + (1 - share) * now[b][:, rows]
            )
        assert torch.equal(found[f"{module}.gate.weight"], now[f"{module}.gate.weight"])


def test_cl_moe_answers_under_both_routers_with_the_task_of_the_nearest_mean(nouns, tiny_bert):
    learner = make_learner("cl_moe", nouns, tiny_bert, instance=0.3)
    list(learner.learn())
    shaken(learner, 0.3)
    model, state = learner.model, learner.strategy.state
    data = nouns.experiences[1].test
    query = tiny_bert(data.inputs).features
    means = [tiny_bert(each.train.inputs).features.mean(dim=0) for each in nouns.experiences]
    nearest = torch.stack([(query - mean).norm(dim=1) for mean in means], dim=1).argmin(dim=1)
    assert torch.equal(learner.strategy.route(model, data.inputs), nearest)
    tensors, kind = model.adapters[MAIN].tensors, model.kind

    def naive(module, shares):
        def patch(x, y):
            for expert in range(kind.experts):
                rows = slice(expert * kind.rank, (expert + 1) * kind.rank)
                a = tensors[f"{module}.experts_A.weight"][rows]
                b = tensors[f"{module}.experts_B.weight"][:, rows]
                own = (x @ tensors[f"{module}.gate.weight"].T).softmax(dim=2)[:, :, expert, None]
                gate = 0.3 * own + 0.7 * shares[module][expert]
                y = y + gate * (kind.alpha / kind.rank) * (x @ a.T @ b.T)
            return y

        return patch

    rows = []
    with torch.no_grad():
        for row, one in enumerate(data.chunks(1)):
            shares = state["shares"][int(nearest[row])]
            patches = {Site(m, m): [naive(m, shares)] for m in gated_modules(tensors)}
            rows.append(model.under(one.inputs, Overlay(patches=patches)).logits)
    torch.testing.assert_close(predict(learner, data), torch.cat(rows), atol=1e-4, rtol=1e-4)
    told = predict(learner, data, Task(0, "first", (0, 1)))
    assert (told - torch.cat(rows)).abs().max() > 1e-5


def test_a_tasks_shares_are_means_over_its_tokens(nouns, tiny_bert):
    learner = make_learner("cl_moe", nouns, tiny_bert)
    next(learner.learn())
    # The first task is merged with nothing.
    _, shares = with_shares(learner.model, nouns.experiences[0].train.inputs)
    for module, kept in learner.strategy.state["shares"][0].items():
        expected = F.normalize(shares[module].sum(dim=0), p=1, dim=0)
        torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-4)

"""Calls of several callers in one forward."""

import pytest
import torch

from lamina.adapters import kind_class
from lamina.adapters.model import AdaptedModel
from lamina.backbones.calls import Call
from lamina.backbones.packing import InTurn, meeting, packed

KINDS = [
    "lora",
    "lora_mixture",
    "bottleneck",
    "prefix",
    "prompt",
    "ia3",
    "ssf",
    "layernorm",
    "bias",
    "vpt_deep",
]


def models(backbone, kind, number=3, **settings):
    made = []
    for seed in range(number):
        own = {name: value[seed] for name, value in settings.items()}
        model = AdaptedModel(backbone, kind_class(kind)(**own), seed)
        model.add()
        for tensor in model.adapters["main"].tensors.values():
            tensor.data += 0.05 * (seed + 1)
        made.append(model)
    return made


def check_packed(backbone, inputs, models, *, stack):
    """Features and gradients of a packed call and of each call alone."""
    overlays = [model.overlay() for model in models]
    sizes = [len(next(iter(each.values()))) for each in inputs]
    together = {name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}
    overlay = packed(overlays, sizes, stack=stack)
    found = backbone.run(Call(together, overlay)).features.split(sizes)
    tensors = [list(model.parameters().values()) for model in models]
    own = [[each for each in group if each.numel() > 0] for group in tensors]
    losses = [features.square().sum() for features in found]
    gradients = torch.autograd.grad(
        losses, [each for group in own for each in group], allow_unused=True
    )
    calls = [Call(given, each.overlay()) for given, each in zip(inputs, models, strict=True)]
    alone = [backbone.run(call).features for call in calls]
    torch.testing.assert_close(list(found), alone, rtol=1e-5, atol=1e-5)
    theirs = [
        gradient
        for features, group in zip(alone, own, strict=True)
        for gradient in torch.autograd.grad(features.square().sum(), group, allow_unused=True)
    ]
    for mine, other in zip(gradients, theirs, strict=True):
        if other is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    return overlay


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_call_sees_its_own_adapter(tiny_bert, sentences, kind, stack):
    check_packed(tiny_bert, [sentences.inputs] * 3, models(tiny_bert, kind), stack=stack)


def test_ranks_and_scales_may_differ_in_a_stack(tiny_bert, sentences):
    made = models(tiny_bert, "lora", rank=(2, 8, 4), alpha=(4, 4, 16))
    overlay = check_packed(tiny_bert, [sentences.inputs] * 3, made, stack=True)
    assert not any(isinstance(each, InTurn) for chain in overlay.patches.values() for each in chain)


@pytest.mark.parametrize("stack", [False, True])
def test_calls_of_different_sizes_and_kinds_go_together(tiny_bert, sentences, stack):
    made = [*models(tiny_bert, "lora", 2), *models(tiny_bert, "bottleneck", 1)]
    rows = [slice(0, 6), slice(0, 2), slice(1, 5)]
    inputs = [sentences[each].inputs for each in rows]
    check_packed(tiny_bert, inputs, made, stack=stack)


def test_prefixes_of_different_lengths_do_not_meet(tiny_bert, sentences):
    first, second = models(tiny_bert, "prefix", 2, length=(3, 5))
    calls = [Call(sentences.inputs, each.overlay()) for each in (first, second)]
    keys = [meeting(each, tiny_bert.architecture) for each in calls]
    assert keys[0] != keys[1]
    assert None not in keys


def test_peft_modules_run_alone(tiny_bert, sentences):
    (model,) = models(tiny_bert, "peft", 1)
    assert meeting(Call(sentences.inputs, model.overlay()), tiny_bert.architecture) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_gives_what_it_reads_one_gradient(tiny_bert, kind):
    """Of several terms, those of one patch would be added to each other first where its rows are a
    piece of a packed batch, and to the frozen module's one by one where they are not: sums of
    floats depend on their order."""
    (model,) = models(tiny_bert, kind, 1)
    for site, patches in model.overlay().patches.items():
        (d_in, _), (_, d_out) = map(tiny_bert.shape_of, (site.read, site.write))
        for patch in patches:
            x = torch.randn(2, 5, d_in, requires_grad=True)
            y = torch.randn(2, 5, d_out, requires_grad=True)
            assert all(edges_into(given, patch(x, y)) <= 1 for given in (x, y))


def edges_into(leaf, output):
    """How many operations between a leaf and an output read the leaf itself."""
    seen, waiting, found = set(), [output.grad_fn], 0
    while waiting:
        node = waiting.pop()
        for following, _ in node.next_functions:
            found += following is not None and getattr(following, "variable", None) is leaf
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return found

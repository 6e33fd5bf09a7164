"""Counted operations against those that a formula gives."""

import torch
import torch.nn.functional as F

from lamina.backbones.operations import counted


def test_a_matrix_product_and_its_backward_are_counted():
    x, w = torch.randn(5, 7), torch.randn(3, 7, requires_grad=True)
    _, forward = counted(lambda: F.linear(x, w))
    assert forward == 2 * 5 * 7 * 3
    (gradient,), both = counted(lambda: torch.autograd.grad(F.linear(x, w).sum(), [w]))
    assert both == 2 * forward
    assert gradient.shape == w.shape


def test_attention_on_the_cpu_is_counted_with_its_backward():
    q, k, v = (torch.randn(2, 4, 9, 8, requires_grad=True) for _ in range(3))
    _, forward = counted(lambda: F.scaled_dot_product_attention(q, k, v))
    assert forward == 2 * (2 * 2 * 4 * 9 * 9 * 8)
    _, both = counted(
        lambda: torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).sum(), [q, k, v])
    )
    assert both > 3 * forward - 1


def test_counting_changes_no_number(tiny_bert, sentences):
    features, flops = counted(lambda: tiny_bert(sentences.inputs).features)
    assert torch.equal(features, tiny_bert(sentences.inputs).features)
    assert flops > 0

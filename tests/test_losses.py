import pytest
import torch
import torch.nn.functional as F

from lamina.core import IGNORED, generator_of
from lamina.losses import cross_entropy, distillation, orthogonality, quadratic_penalty


def random(*shape):
    return torch.randn(*shape, generator=generator_of(0, "losses", *shape))


def test_cross_entropy_over_some_classes_is_that_of_the_others_cut_away():
    logits, labels = random(5, 7), torch.tensor([2, 4, 4, 2, 6])
    loss = cross_entropy(logits, labels, classes=[2, 4, 6])
    naive = F.cross_entropy(logits[:, [2, 4, 6]], torch.tensor([0, 1, 1, 0, 2]))
    torch.testing.assert_close(loss, naive)


def test_cross_entropy_of_token_sequences_does_not_count_ignored_tokens():
    logits = random(2, 3, 11)
    labels = torch.tensor([[1, 2, IGNORED], [3, IGNORED, IGNORED]])
    naive = F.cross_entropy(
        torch.stack([logits[0, 0], logits[0, 1], logits[1, 0]]), torch.tensor([1, 2, 3])
    )
    torch.testing.assert_close(cross_entropy(logits, labels), naive)
    rows = cross_entropy(logits, labels, reduction="none")
    assert rows.shape == (2, 3)
    assert rows[1, 1] == 0


def test_distillation_of_equal_outputs_is_nothing():
    assert distillation(random(4, 6), random(4, 6), 2.0) == pytest.approx(0.0, abs=1e-6)


def test_distillation_is_the_divergence_of_softened_outputs_times_the_squared_temperature():
    student, teacher = random(4, 6), random(4, 6).flip(0)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    naive = 9 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(distillation(student, teacher, 3.0), naive)


def test_orthogonal_rows_do_not_overlap():
    eye = torch.eye(6)
    assert orthogonality(eye[:3], eye[3:]) == 0
    assert orthogonality(eye[:3], 2 * eye[:2]) == 4


def test_a_quadratic_penalty_sees_only_rows_that_had_an_anchor():
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]])
    anchor, importance = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert quadratic_penalty(value, anchor, importance) == 1 + 2 * 16

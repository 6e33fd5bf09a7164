"""Sums over very few rows stay with the client, or leave behind noise."""

import pytest
import torch

from lamina.core import Batch, Summary, generator_of
from lamina.federation.privacy.released import ReleaseRule, frequent_rows, released_sums
from lamina.memory.gaussian import class_sums
from lamina.registry import InputError

LABELS = torch.tensor([0] * 12 + [1] * 3 + [2] * 10)
FEATURES = torch.randn(25, 4, generator=generator_of(0))
BATCH = Batch({"x": FEATURES}, LABELS, torch.arange(25))


def review(batch: Batch) -> Summary:
    return Summary(class_sums(batch.inputs["x"], batch.labels, 3))


def test_rows_of_a_rare_class_are_in_no_sum():
    released = released_sums(review, BATCH, ReleaseRule(min_rows=10), seed=0, chunk=7)
    assert released["count"].tolist() == [12, 0, 10]
    assert torch.equal(released["total"][1], torch.zeros(4))
    torch.testing.assert_close(released["total"][0], FEATURES[:12].sum(dim=0))
    everything = released_sums(review, BATCH, ReleaseRule(min_rows=1), seed=0)
    torch.testing.assert_close(everything["total"], review(BATCH)["total"])


def test_a_client_of_rare_classes_only_sends_zeros():
    released = released_sums(review, BATCH, ReleaseRule(min_rows=13), seed=0)
    assert {name: value.shape for name, value in released.items()} == {
        "count": (3,),
        "total": (3, 4),
    }
    assert all(not value.any() for value in released.values())


def test_token_sequences_are_one_class():
    labels = torch.arange(12).reshape(4, 3)
    assert frequent_rows(labels, 4).tolist() == [0, 1, 2, 3]
    assert frequent_rows(labels, 5).tolist() == []


def test_with_noise_every_row_is_clipped_and_the_sum_hidden():
    quiet = ReleaseRule(noise_multiplier=1e-12, clip=0.5)
    released = released_sums(review, BATCH, quiet, seed=0)
    expected = torch.zeros(3, 4)
    for feature, label in zip(FEATURES, LABELS, strict=True):
        norm = (1 + feature.square().sum()).sqrt()
        expected[label] += feature * min(1.0, float(0.5 / norm))
    torch.testing.assert_close(released["total"], expected)
    assert released["total"].dtype == torch.float32

    loud = ReleaseRule(noise_multiplier=3.0, clip=0.5)
    noise = torch.stack(
        [
            released_sums(review, BATCH[:1], loud, n, "round 0")["total"]
            - released_sums(review, BATCH[:1], quiet, n, "round 0")["total"]
            for n in range(300)
        ]
    )
    assert abs(noise.std() - 1.5) < 4 * 1.5 / (2 * noise.numel()) ** 0.5
    first, again, other = (
        released_sums(review, BATCH[:1], loud, 0, name)["total"] for name in ("a", "a", "b")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_summary_with_rows_is_refused():
    def keeps_rows(batch: Batch) -> Summary:
        return Summary({"count": torch.ones(1)}, {"features": batch.inputs["x"]})

    for rule in (ReleaseRule(), ReleaseRule(noise_multiplier=1.0)):
        with pytest.raises(InputError, match="features"):
            released_sums(keeps_rows, BATCH, rule, seed=0)


@pytest.mark.parametrize("wrong", [{"min_rows": 0}, {"noise_multiplier": -1.0}, {"clip": 0.0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ReleaseRule(**wrong)

"""Exemplars of pictures take a byte for each number, and not a bit is lost."""

import pytest
import torch

from bundle_cases import new_learner
from lamina.bundles import open_bundle, write_bundle
from lamina.bundles.pixels import packed, unpacked


def pixels_of(pictures: torch.Tensor) -> torch.Tensor:
    """As an image processor normalises uint8 pictures [N, 3, H, W]."""
    mean, std = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])
    return (pictures / 255 - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("most", [2, 40, 256])
def test_pixels_of_8_bit_pictures_come_back_to_the_last_bit(most):
    generator = torch.Generator().manual_seed(0)
    shape = (5, 3, 32, 24)
    pixels = pixels_of(torch.randint(most, shape, generator=generator, dtype=torch.uint8))
    kept = packed(pixels)
    assert kept["codes"].dtype == torch.uint8
    assert kept["codes"].shape == shape
    assert torch.equal(unpacked(kept).view(torch.int32), pixels.view(torch.int32))


@pytest.mark.parametrize(
    "given",
    [
        torch.randn(2, 3, 20, 20),
        torch.tensor([[[0.0, -0.0]]]),
        torch.zeros(0, 3, 2, 2),
        torch.ones(2, 3, dtype=torch.int64),
    ],
    ids=["fractions", "two zeros", "no rows", "tokens"],
)
def test_what_a_byte_does_not_hold_stays_as_it_is(given):
    assert packed(given) is given
    assert unpacked(given) is given


def test_a_bundle_keeps_its_exemplars_so(tiny_vit, tiny_vit_folder, tmp_path):
    mapping = {
        "name": "pictures",
        "stream": {"name": "digits"},
        "scenario": {"kind": "class_incremental", "num_tasks": 5},
        "backbone": {"name": str(tiny_vit_folder)},
        "adapter": {"kind": "lora"},
        "strategy": {"name": "er"},
        "memory": {"policy": "class_balanced", "size": 6},
        "training": {"epochs": 1, "batch_size": 256},
    }
    job, learner = new_learner(mapping, tiny_vit)
    next(iter(learner.learn()))
    write_bundle(job, learner, tmp_path / "bundle", name="pictures", trial="pictures-0")
    kept = open_bundle(tmp_path / "bundle").learner["exemplars"]["inputs"]["pixel_values"]
    own = learner.rows(learner.memory.ids).to("cpu").inputs["pixel_values"]
    assert kept["codes"].dtype == torch.uint8
    assert len(own) == 6
    assert torch.equal(unpacked(kept), own)

"""The digits stream: images, two digits per task."""

import torch

from lamina.streams import ScenarioSettings, build_stream, source_class


def test_tasks_are_pairs_of_digits_as_images():
    stream = build_stream(source_class("digits")(), ScenarioSettings(kind="class_incremental"), 0)
    assert stream.modality == "image"
    assert [each.task.name for each in stream.experiences] == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    assert stream.class_names == tuple("0123456789")
    image = stream.experiences[0].train.values[0]
    assert image.shape == (8, 8, 3)
    assert image.dtype == torch.uint8


def test_ink_is_bright_and_paper_is_black():
    images = torch.stack(source_class("digits")().load(seed=0).values)
    assert len(images) == 1797
    assert (images.min(), images.max()) == (0, 255)

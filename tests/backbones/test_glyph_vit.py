"""The vision transformer that the project ships: its files, its letters, its recipe."""

import json
from pathlib import Path

import pytest
import torch

import lamina.backbones.glyph_vit
from lamina.backbones.glyph_vit.glyphs import CANVAS, DIGITS, SIZE, distort, draw, render_glyphs
from lamina.backbones.glyph_vit.pretrain import Recipe, pretrain
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.core import generator_of
from lamina.streams import ScenarioSettings, build_stream, source_class

FOLDER = Path(lamina.backbones.glyph_vit.__file__).parent


@pytest.fixture(scope="module")
def glyph_vit():
    return load_backbone(BackboneSettings("glyph_vit"))


@pytest.fixture(scope="module")
def glyphs():
    return render_glyphs()


def test_it_loads_and_is_the_same_every_time(glyph_vit):
    assert glyph_vit.modality == "image"
    assert glyph_vit.architecture.num_layers == 6
    assert glyph_vit.capabilities.takes_prefixes
    assert load_backbone(BackboneSettings("glyph_vit")).digest == glyph_vit.digest


def test_its_files_are_small_and_say_where_they_come_from():
    assert (FOLDER / "model.safetensors").stat().st_size < 8e6
    readme = (FOLDER / "README.md").read_text()
    assert all(word in readme for word in ("Apache-2.0", "Bitstream Vera", "SIL Open Font License"))
    assert json.loads((FOLDER / "training.json").read_text())["classes"] == 273


def test_its_files_travel_with_the_package():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["lamina.backbones.glyph_vit"]
    shipped = {path.name for pattern in patterns for path in FOLDER.glob(pattern)}
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"} <= shipped


def test_its_features_separate_digits_that_it_never_saw(glyph_vit):
    settings = ScenarioSettings("joint", limit_per_class=40)
    stream = glyph_vit.encode_stream(build_stream(source_class("digits")(), settings, seed=0))
    train, test = stream.experiences[0].train, stream.experiences[0].test
    with torch.no_grad():
        known, new = glyph_vit(train.inputs).features, glyph_vit(test.inputs).features
    center = known.mean(0)
    means = torch.stack([known[train.labels == each].mean(0) for each in range(10)])
    cosines = torch.cosine_similarity((new - center)[:, None], (means - center)[None], dim=-1)
    assert (cosines.argmax(1) == test.labels).float().mean() > 0.7


def test_no_class_is_a_digit_or_the_double_of_another(glyphs):
    assert len(glyphs.characters) == len(set(glyphs.characters)) == 273
    assert not set(glyphs.characters) & set(DIGITS + "OoIlSZzB")
    assert glyphs.pictures.shape[1:] == (CANVAS, CANVAS)
    assert (glyphs.labels.bincount() >= 4).all()


def test_distortions_are_seeded_and_grow_with_their_strength(glyphs):
    one, labels = draw(glyphs, 40, generator_of(0, "draw"))
    same, _ = draw(glyphs, 40, generator_of(0, "draw"))
    other, _ = draw(glyphs, 40, generator_of(1, "draw"))
    assert one.shape == (40, SIZE, SIZE)
    assert 0 <= one.min() < one.max() <= 1
    assert len(labels) == 40
    assert torch.equal(one, same)
    assert not torch.equal(one, other)

    def spread(strength):
        pictures = glyphs.pictures[:1].expand(64, -1, -1)
        return distort(pictures, generator_of(0, "spread"), strength).std(0).mean()

    assert spread(0.0) < spread(0.5) < spread(1.0)


def test_the_recipe_makes_a_backbone(tmp_path):
    recipe = Recipe(steps=2, batch_size=8, dim=32, layers=2, pictures_to_score=16)
    about = pretrain(tmp_path / "one", recipe)
    pretrain(tmp_path / "two", recipe)
    assert about["steps"] == 2
    assert about["pictures"] == 16
    assert about == json.loads((tmp_path / "one" / "training.json").read_text())
    first, second = (load_backbone(BackboneSettings(str(tmp_path / n))) for n in ("one", "two"))
    assert first.architecture.num_layers == 2
    assert first.digest == second.digest

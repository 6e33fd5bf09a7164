"""Images are what a person sees, whole or refused by name, and decoded when they are needed."""

import io
import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from lamina.core import Batch, LazyInput, LazyValues, values_at
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, build_stream, source_class
from lamina.streams.client_streams import ClientStreams
from lamina.streams.images import EncodedImages, decode

HuggingFace = source_class("huggingface")
TWO_TASKS = ScenarioSettings("class_incremental", num_tasks=2)
RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def seen(picture: Image.Image, kind: str = "PNG", background="white", **options) -> np.ndarray:
    found = decode(encoded(picture, kind, **options), "a picture", background)
    assert found.dtype == np.uint8
    assert found.shape == (*found.shape[:2], 3)
    return found


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def noise(seed: int, size=(12, 10)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(values)


def folder_of(path: Path, labels=("ant", "bee"), number=8, kind="png") -> Path:
    for place, label in enumerate(labels):
        (path / label).mkdir(parents=True)
        for each in range(number):
            noise(100 * place + each).save(path / label / f"{each}.{kind}")
    return path


def source_of(path, **options):
    return HuggingFace(path=str(path), image_column="image", **options)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greys_are_scaled_by_their_whole_range(kind):
    wide = RAMP.astype(np.uint16) * 257
    assert np.array_equal(seen(Image.fromarray(wide), kind), grey(RAMP))
    dark = Image.fromarray(wide // 16)
    assert seen(dark, kind).max() == 16


def test_big_endian_16_bit_greys_are_read():
    wide = Image.frombytes("I;16B", (8, 8), (RAMP.astype(">u2") * 257).tobytes())
    assert np.array_equal(seen(wide, "TIFF"), grey(RAMP))


@pytest.mark.parametrize(
    "values",
    [
        RAMP.astype(np.int32),
        RAMP.astype(np.int32) * 257,
        RAMP.astype(np.int32) * 8_000_000 - 1_000_000_000,
        RAMP.astype(np.float32) / 255,
        RAMP.astype(np.float32),
        RAMP.astype(np.float32) * 257,
        RAMP.astype(np.float32) / 50 - 3,
    ],
)
def test_wide_and_float_greys_are_scaled_to_8_bit(values):
    found = seen(Image.fromarray(values), "TIFF").astype(int)
    assert np.abs(found - grey(RAMP)).max() <= 1


def test_a_flat_grey_beyond_every_range_is_black_and_no_warning():
    assert seen(Image.fromarray(np.full((4, 4), -7, np.int32)), "TIFF").max() == 0


def test_values_that_are_not_finite_are_refused_by_name():
    picture = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    with pytest.raises(InputError, match=r"^stream\.image_column: x cannot be .* not finite"):
        decode(encoded(picture, "TIFF"), "x")


@pytest.mark.parametrize(("background", "value"), [("white", 255), ("black", 0), ("grey", 128)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_shows_the_background(mode, background, value):
    if mode == "RGBA":
        picture, options = Image.new("RGBA", (4, 4), (200, 10, 30, 0)), {}
    elif mode == "LA":
        picture, options = Image.new("LA", (4, 4), (77, 0)), {}
    elif mode == "P":
        picture = Image.new("P", (4, 4), 1)
        picture.putpalette([0, 0, 0, 255, 0, 0])
        options = {"transparency": 1}
    else:
        picture, options = Image.new("RGB", (4, 4), (1, 2, 3)), {"transparency": (1, 2, 3)}
    assert (seen(picture, background=background, **options) == value).all()


def test_half_transparency_mixes_with_the_background():
    assert seen(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))[0, 0, 0] in (126, 127, 128)


def test_palettes_bits_and_cmyk_are_what_they_show():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert seen(palette)[0, 0].tolist() == [10, 200, 30]
    assert seen(Image.new("1", (4, 4), 1)).min() == 255
    assert seen(Image.new("L", (4, 4), 9)).max() == 9
    red = seen(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)[8, 8]
    assert red[0] > 230
    assert red[1:].max() < 40


def test_the_rotation_that_exif_asks_for_is_done():
    values = np.zeros((4, 6, 3), np.uint8)
    values[:, :3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = seen(Image.fromarray(values), exif=exif)
    assert turned.shape == (6, 4, 3)
    assert turned[0].min() == 255
    assert turned[-1].max() == 0


def test_16_bit_pictures_of_a_folder_are_as_bright_as_in_8_bit(tmp_path):
    for depth in (8, 16):
        for label in "ab":
            (tmp_path / str(depth) / label).mkdir(parents=True)
            for number in range(6):
                values = np.full((5, 5), 20 * number + 7, np.uint8 if depth == 8 else np.uint16)
                values = values if depth == 8 else values * 257
                Image.fromarray(values).save(tmp_path / str(depth) / label / f"{number}.png")
    tables = [source_of(tmp_path / str(depth)).load(seed=0) for depth in (8, 16)]
    for one, other in zip(tables[0].values, tables[1].values, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("broken", ["text", "empty", "png", "jpg", "gif", "bmp", "webp"])
def test_what_is_no_whole_image_is_refused_by_its_file(broken, tmp_path):
    folder = folder_of(tmp_path / "data")
    ending = "png" if broken in ("text", "empty") else broken
    content = {"text": b"no image", "empty": b""}.get(broken)
    if content is None:
        kind = {"jpg": "JPEG"}.get(broken, broken.upper())
        whole = encoded(noise(7, (60, 60)), kind)
        content = whole[: len(whole) // 2]
    (folder / "bee" / f"x.{ending}").write_bytes(content)
    with pytest.raises(InputError, match=rf"^stream\.image_column: '.*bee/x\.{ending}' ") as error:
        source_of(folder).load(seed=0)
    assert "\n" not in str(error.value)


def test_a_picture_with_spoilt_bytes_is_refused_by_its_file(tmp_path):
    folder = folder_of(tmp_path / "data")
    path = folder / "bee" / "5.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^stream\.image_column: '.*bee/5\.png' "):
        source_of(folder).load(seed=0)


def test_other_files_beside_images_are_no_images(tmp_path):
    folder = folder_of(tmp_path / "data")
    (folder / "bee" / "notes.txt").write_text("hello")
    (folder / "bee" / ".hidden").write_text("hello")
    assert len(source_of(folder).load(seed=0)) == 16


def test_files_beside_images_that_are_not_read_are_said(tmp_path):
    folder_of(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "README.md").write_text("about")
    assert source_of(tmp_path).load(0).notes == []
    for place in range(4):
        (tmp_path / "ant" / f"{place}.avif").write_bytes(b"a kind that is not read")
    (note,) = source_of(tmp_path).load(0).notes
    assert note.counts == {"files": 4}
    assert note.line.startswith("4 files beside the images are no images by name and left out: ")
    assert "ant/0.avif'" in note.line


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_marker_that_cannot_stand_among_the_pixels_of_a_jpeg_is_damage(options, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "JPEG", exif=b"Exif\0\0\xff\x01", **options)
    EncodedImages([whole, whole + b"what a phone writes behind it \xff\x01 \xff\xd9"], "ab").check()
    middle = whole.index(b"\xff\xda") + 500
    for damage in (b"\xff\x05", b"\xff\xff\xc0"):
        broken = whole[:middle] + damage + whole[middle + len(damage) :]
        with pytest.raises(InputError, match=r"^stream\.image_column: b is damaged \(its pix"):
            EncodedImages([whole, broken], "ab").check()


def test_all_that_is_broken_is_counted(tmp_path):
    folder = folder_of(tmp_path / "data")
    for number in range(3):
        (folder / "bee" / f"x{number}.png").write_text("no image")
    with pytest.raises(InputError, match=r"x0\.png' is no image \(and 2 more\)$"):
        source_of(folder).load(seed=0)


def test_an_image_of_too_many_pixels_is_refused_by_its_file(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "data")
    Image.new("1", (60, 60)).save(folder / "bee" / "huge.png")
    for most in (3000, 1000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(InputError, match=r"huge\.png' has too many pixels \(allowed: "):
            source_of(folder).load(seed=0)


def test_images_of_a_parquet_file_are_refused_by_their_row(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {
        "image": [{"bytes": encoded(noise(n)), "path": None} for n in range(4)],
        "label": [0, 1, 1, 0],
    }
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    table = source_of(path).load(seed=0)
    assert list(table.labels) == ["a", "b", "b", "a"]
    assert torch.equal(table.values[2], torch.from_numpy(np.array(noise(2))))
    rows["image"][2] = {"bytes": b"no image", "path": None}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    with pytest.raises(InputError, match=r"^stream\.image_column: row 3 of '.*' is no image"):
        source_of(path).load(seed=0)
    rows["image"][2] = None
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    with pytest.raises(InputError, match=r"^stream\.empty: 1 of 4 rows is empty: .*row 3"):
        source_of(path).load(seed=0)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_labels_beside_a_folder_of_images_are_names(kind, tmp_path):
    names = ["007", "7", "NA", "None"]
    for number in range(4):
        noise(number).save(tmp_path / f"{number}.png")
    rows = [{"file_name": f"{n}.png", "label": name} for n, name in enumerate(names)]
    if kind == "csv":
        lines = ["file_name,label", *(",".join(row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines))
    table = source_of(tmp_path).load(seed=0)
    assert list(table.labels) == names
    assert torch.equal(table.values[3], torch.from_numpy(np.array(noise(3))))


def test_equal_images_of_train_and_test_are_said(tmp_path):
    for split in ("train", "test"):
        folder_of(tmp_path / split, number=6)
    (note,) = build_stream(source_of(tmp_path, test_split="test"), TWO_TASKS, 0).record["notes"]
    assert (note["about"], note["rows"], note["of"]) == ("test_rows_in_train", 12, 12)


# Decoded when they are needed


class Counting(EncodedImages):
    """Counts what is decoded."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.decoded = []

    def __getitem__(self, row):
        self.decoded.append(row)
        return super().__getitem__(row)


def counted_images(number=10):
    return Counting([encoded(noise(n)) for n in range(number)], [f"{n}" for n in range(number)])


def test_choosing_rows_decodes_nothing():
    images = counted_images()
    values = LazyValues(images, torch.arange(10))
    chosen = values_at(values, [4, 2])
    assert images.decoded == []
    assert torch.equal(chosen[1], torch.from_numpy(np.array(noise(2))))
    assert images.decoded == [2]


def test_a_stream_is_encoded_without_decoding_and_gives_what_decoding_first_gives(
    tiny_vit, tmp_path
):
    raw = build_stream(source_of(folder_of(tmp_path)), TWO_TASKS, seed=0)
    lazy = tiny_vit.encode_stream(raw).experiences[0].train
    assert isinstance(lazy.lazy["pixel_values"], LazyInput)
    decoded = list(raw.experiences[0].train.values)
    eager = tiny_vit.inputs.encoder(decoded)["pixel_values"]
    assert torch.equal(lazy.to("cpu").inputs["pixel_values"], eager)
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(lazy[rows].to("cpu").inputs["pixel_values"], eager[rows])
    joined = Batch.cat([lazy[slice(0, 1)], lazy[slice(2, 4)]]).to("cpu")
    assert torch.equal(joined.inputs["pixel_values"], eager[[0, 2, 3]])
    assert joined.lazy == {}
    assert lazy.num_bytes() == eager.numel() * 4 + 8 * len(lazy)


def test_a_blank_row_has_nothing_of_an_image_that_is_not_decoded_yet(tiny_vit, tmp_path):
    from lamina.federation.client.boundaries import blank

    raw = build_stream(source_of(folder_of(tmp_path)), TWO_TASKS, seed=0)
    experience = tiny_vit.encode_stream(raw).experiences[0]
    row = blank(experience.train[slice(0, 1)], experience.task).to("cpu")
    assert row.inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert not row.inputs["pixel_values"].any()


def test_an_image_is_decoded_once_as_long_as_there_is_room(tiny_vit, monkeypatch):
    images = counted_images(4)
    values = LazyValues(images, torch.arange(4))
    encode = type(tiny_vit.inputs.encoder)(tiny_vit.inputs.encoder.processor)
    pixels = encode(values)["pixel_values"]
    first = pixels.tensor()
    assert torch.equal(pixels.tensor(), first)
    assert images.decoded == [0, 1, 2, 3]
    monkeypatch.setattr("lamina.backbones.pixels.PIXEL_BYTES", 0)
    other = type(tiny_vit.inputs.encoder)(tiny_vit.inputs.encoder.processor)(values)["pixel_values"]
    assert torch.equal(other.tensor(), first)
    assert torch.equal(other.tensor(), first)
    assert len(images.decoded) == 12


def test_features_are_kept_by_content_without_decoding(tiny_vit_folder, tmp_path):
    from lamina.backbones.load import load_backbone
    from lamina.backbones.settings import BackboneSettings
    from lamina.core import KEYS

    raw = build_stream(source_of(folder_of(tmp_path / "a")), TWO_TASKS, seed=0)
    found = []
    for _ in range(2):
        backbone = load_backbone(BackboneSettings(str(tiny_vit_folder)))
        bare = backbone.encode_stream(raw).experiences[0].train.to("cpu")
        backbone.keep_features(tmp_path / "features", 10**9)
        batch = backbone.encode_stream(raw).experiences[0].train
        kept = backbone(batch.to("cpu").inputs).features
        assert torch.allclose(kept, backbone(bare.inputs).features, atol=1e-6)
        found.append(batch.inputs[KEYS])
    assert torch.equal(*found)
    assert len(found[0].unique()) == len(found[0])


def test_a_stream_that_was_sent_holds_its_images(tmp_path):
    folder = folder_of(tmp_path / "data", kind="jpg")
    raw = build_stream(source_of(folder), TWO_TASKS, seed=0)
    sent = pickle.dumps(raw)
    images = [list(each.train.values) for each in raw.experiences]
    digests = [each.train.values.digest(0) for each in raw.experiences]
    for path in folder.rglob("*.jpg"):
        path.unlink()
    got = pickle.loads(sent)
    for each, expected, digest in zip(got.experiences, images, digests, strict=True):
        assert all(map(torch.equal, each.train.values, expected))
        assert each.train.values.digest(0) == digest
    assert len(sent) < 4 * sum(len(encoded(noise(n), "JPEG")) for n in range(16))


def test_a_file_that_changed_since_it_was_checked_is_refused(tmp_path):
    folder = folder_of(tmp_path / "data")
    table = source_of(folder).load(seed=0)
    noise(999).save(folder / "bee" / "3.png")
    with pytest.raises(InputError, match=r"bee/3\.png' has changed"):
        list(table.values)


def test_clients_choose_their_images_without_decoding(tmp_path):
    from lamina.streams.arrivals import arrival_class
    from lamina.streams.dealing import make_manifest
    from lamina.streams.partitioners import partitioner_class

    raw = build_stream(source_of(folder_of(tmp_path)), TWO_TASKS, seed=0)
    manifest = make_manifest(raw, 2, partitioner_class("iid")(), arrival_class("in_step")(), 0)
    clients = ClientStreams(raw, manifest)
    part = clients.part(0, "train")
    assert isinstance(part.values, LazyValues)
    place = dict(zip(part.ids.tolist(), part.values, strict=True))
    for each in raw.experiences:
        for row, image in zip(each.train.ids.tolist(), each.train.values, strict=True):
            if row in place:
                assert torch.equal(place[row], image)

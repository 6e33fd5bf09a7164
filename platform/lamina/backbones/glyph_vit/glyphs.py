"""Pictures of letters: rendered from the free fonts that matplotlib ships, then distorted
as handwriting, cameras and coarse pixels would."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

FONTS = [
    f"{family}{style}.ttf"
    for family, styles in {
        "DejaVuSans": ["", "-Bold", "-Oblique", "-BoldOblique"],
        "DejaVuSansMono": ["", "-Bold", "-Oblique", "-BoldOblique"],
        "DejaVuSerif": ["", "-Bold", "-Italic", "-BoldItalic"],
        "STIXGeneral": ["", "Bol", "Italic", "BolIta"],
    }.items()
    for style in styles
]
"""DejaVu (Bitstream Vera licence) and STIX (SIL Open Font License). matplotlib's Computer Modern
fonts are left out: they come without a licence text."""

SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "HEBREW")
DIGITS = "0123456789"
MIN_FONTS = 4
"""A class is drawn in at least as many fonts."""
ALIKE = 0.9
"""Two letters whose coarse pictures correlate at least so much are one class: the first of them."""
LIKE_A_DIGIT = 0.62
"""A letter whose coarse picture correlates at least so much with a digit's is no class at all. That
drops O, l and I, S, Z, B and g, and six in ten of all letters: digits stay unseen."""

CANVAS = 48
"""Pixels of a rendered glyph."""
SIZE = 32
"""Pixels of a distorted picture."""


@dataclass(frozen=True)
class Glyphs:
    """Clean pictures, bright on dark."""

    characters: list[str]
    """The character of each class."""
    pictures: Tensor
    """uint8 [P, CANVAS, CANVAS]."""
    labels: Tensor
    """int64 [P], indices into `characters`."""


def render_glyphs() -> Glyphs:
    """Every letter of the fonts, without accents, that looks neither like a digit nor like a letter
    before it."""
    drawn: dict[str, dict[int, Tensor]] = {}
    for index, (font, covered) in enumerate(map(_font, FONTS)):
        for character in map(chr, sorted(covered)):
            if _wanted(character) and (picture := _rasterised(character, font)) is not None:
                drawn.setdefault(character, {})[index] = picture
    digits, letters = _Coarse(len(FONTS)), _Coarse(len(FONTS))
    for digit in DIGITS:
        digits.add(drawn.pop(digit))
    characters: list[str] = []
    pictures: list[Tensor] = []
    labels: list[int] = []
    for character, of_fonts in drawn.items():
        if (
            len(of_fonts) >= MIN_FONTS
            and digits.similarity(of_fonts) < LIKE_A_DIGIT
            and letters.similarity(of_fonts) < ALIKE
        ):
            letters.add(of_fonts)
            labels += [len(characters)] * len(of_fonts)
            characters.append(character)
            pictures += of_fonts.values()
    return Glyphs(characters, torch.stack(pictures), torch.tensor(labels))


class _Coarse:
    """What glyphs look like at 8 x 8 pixels, font by font."""

    def __init__(self, num_fonts: int) -> None:
        self.num_fonts = num_fonts
        self.known: list[Tensor] = []

    def add(self, pictures: dict[int, Tensor]) -> None:
        self.known.append(self._vectors(pictures))

    def similarity(self, pictures: dict[int, Tensor]) -> float:
        """The highest correlation with one of the known, averaged over the fonts that draw both."""
        if not self.known:
            return 0.0
        known, own = torch.stack(self.known), self._vectors(pictures)
        both = (known.any(-1) & own.any(-1)).sum(-1)
        return float(((known * own).sum((-2, -1)) / both.clamp_min(1)).max())

    def _vectors(self, pictures: dict[int, Tensor]) -> Tensor:
        vectors = torch.zeros(self.num_fonts, 64)
        for index, picture in pictures.items():
            small = F.adaptive_avg_pool2d(picture.float()[None], 8).flatten()
            vectors[index] = F.normalize(small - small.mean(), dim=0)
        return vectors


def _font(name: str) -> "tuple[FreeTypeFont, set[int]]":
    """A font and the characters it covers."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font
    from PIL.ImageFont import truetype

    path = str(Path(get_data_path()) / "fonts" / "ttf" / name)
    return truetype(path, 2 * CANVAS), set(FT2Font(path).get_charmap())


def _wanted(character: str) -> bool:
    if unicodedata.decomposition(character):
        return False
    is_letter = unicodedata.category(character) in ("Lu", "Ll", "Lo")
    of_script = unicodedata.name(character, "").startswith(SCRIPTS)
    return character in DIGITS or (is_letter and of_script)


def _rasterised(character: str, font: "FreeTypeFont") -> Tensor | None:
    """The glyph, its longer side filling five sixths of the canvas; None for a glyph without ink or
    thin as a line."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    width, height = right - left, bottom - top
    if min(width, height) < CANVAS / 3:
        return None
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((-left, -top), character, font=font, fill=255)
    scale = CANVAS * 5 / 6 / max(width, height)
    width, height = round(width * scale), round(height * scale)
    canvas = Image.new("L", (CANVAS, CANVAS))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(resized, ((CANVAS - width) // 2, (CANVAS - height) // 2))
    return torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(CANVAS, CANVAS)


def draw(
    glyphs: Glyphs, number: int, generator: torch.Generator, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Distorted pictures float32 [number, SIZE, SIZE] and their labels; every class is as
    likely."""
    counts = glyphs.labels.bincount()
    labels = torch.randint(len(counts), (number,), generator=generator)
    nth = (torch.rand(number, generator=generator) * counts[labels]).long()
    first = counts.cumsum(0) - counts
    return distort(glyphs.pictures[first[labels] + nth], generator, strength), labels


def distort(pictures: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Pictures uint8 [N, CANVAS, CANVAS] as no two hands draw them: float32 [N, SIZE, SIZE] in
    [0, 1].

    `strength` from 0 to 1 is how far they may bend.
    """
    x = pictures[:, None].float() / 255
    x = _with_other_strokes(x, generator)
    x = F.grid_sample(x, _warp(len(x), strength, generator), align_corners=False)
    x = torch.cat([_coarser(piece, generator) for piece in x.chunk(4)])[:, 0]
    return _lit(x, generator)


def _between(low: float, high: float, n: int, generator: torch.Generator) -> Tensor:
    """U(low, high), [n, 1, 1]."""
    return low + (high - low) * torch.rand(n, 1, 1, generator=generator)


def _with_other_strokes(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blurred, then cut at a level: a low level makes the strokes wide, a high one thin."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    for shape in ((1, 1, 5, 1), (1, 1, 1, 5), (1, 1, 5, 1), (1, 1, 1, 5)):
        x = F.conv2d(x, kernel.view(shape), padding="same")
    level = _between(0.15, 0.6, len(x), generator)[:, None]
    return torch.sigmoid((x - level) * 12)


def _warp(n: int, strength: float, generator: torch.Generator) -> Tensor:
    """Where each pixel comes from: an affine map and a smooth elastic field, [n, SIZE, SIZE, 2]."""

    def within(bound: float) -> Tensor:
        return _between(-bound * strength, bound * strength, n, generator)

    angle, shear = within(0.35), within(0.35)
    wide, high = 1.05 + within(0.25), 1.05 + within(0.25)
    sin, cos = angle.sin(), angle.cos()
    rows = [
        torch.cat([wide * cos, wide * (shear * cos - sin), within(0.12)], 2),
        torch.cat([high * sin, high * (shear * sin + cos), within(0.12)], 2),
    ]
    grid = F.affine_grid(torch.cat(rows, 1), [n, 1, SIZE, SIZE], align_corners=False)
    bends = torch.randn(n, 2, 4, 4, generator=generator)
    bends = bends * _between(0.0, 0.12 * strength, n, generator)[:, None]
    smooth = F.interpolate(bends, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
    return grid + smooth.permute(0, 2, 3, 1)


def _coarser(x: Tensor, generator: torch.Generator) -> Tensor:
    """Averaged to fewer pixels and enlarged again; one picture in three keeps them all."""
    if torch.rand((), generator=generator) < 1 / 3:
        return x
    pixels = int(torch.randint(7, 17, (), generator=generator))
    return F.interpolate(F.adaptive_avg_pool2d(x, pixels), size=(SIZE, SIZE), mode="bilinear")


def _lit(x: Tensor, generator: torch.Generator) -> Tensor:
    """Other contrast, brightness and noise."""
    n = len(x)
    x = x * _between(0.7, 1.3, n, generator) + _between(-0.1, 0.1, n, generator)
    x = x + torch.randn(x.shape, generator=generator) * _between(0.0, 0.08, n, generator)
    return x.clamp(0, 1)

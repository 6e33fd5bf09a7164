"""Images as people see them, decoded when they are needed.

What is held is the encoded image: a file's name, or bytes. Decoding gives 8-bit RGB by these rules:

- the rotation that EXIF asks for is done;
- palettes, CMYK, YCbCr, 1-bit and 8-bit greys become RGB;
- transparency (an alpha channel, a transparent colour) is laid on a background;
- 16-bit greys are scaled by their whole range: 65535 is white;
- 32-bit integers within 0 to 255 are 8-bit greys, within 0 to 65535 16-bit greys; others are scaled
  from their smallest to their largest value;
- floats within 0 to 1 are scaled from there, within 0 to 255 they are 8-bit greys; others are
  treated as 32-bit integers are;
- of several frames the first is taken.

What is damaged is refused as far as it shows. A PNG has a sum of each chunk, so all damage shows. A
JPEG has none. One that is cut off shows, and so does a marker among its pixels that cannot be
there, which most overwritten bytes leave. Where bytes are missing in the middle, or a few are
others, the decoder goes on, draws something (often grey from there on), and says nothing.
"""

import io
import re
import warnings
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lamina.registry import InputError
from lamina.streams.tables import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Background = Literal["white", "black", "grey"]
_GREYS = {"white": 255, "grey": 128, "black": 0}
_RULES = 1
"""Counts the versions of the rules above: what is kept of images is of one version."""
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""The last bytes of a complete image, by format."""
_END, _SCAN = 0xD9, 0xDA
"""Markers of JPEG: of its end, and before the data of pixels."""
_AFTER_DATA = frozenset((0xC4, _SCAN, 0xDB, 0xDC, 0xDD, 0xFE, _END, *range(0xE0, 0xF0)))
"""Markers that may follow such data: another scan, tables, comments, the end."""
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""In the data of pixels: neither an escaped 0xff nor a restart."""


class EncodedImages:
    """N images as files or bytes: `images[row]` decodes one to uint8 [height, width, 3].

    Pickled, it holds bytes only, so that it can be read on a machine that has no such files.
    """

    def __init__(
        self, encoded: Sequence[Image], names: Sequence[str], background: Background = "white"
    ) -> None:
        """`names` is what a person calls each image. Nothing is read yet."""
        self._encoded = list(encoded)
        self._names = list(names)
        self._background: Background = background
        self._stamps: dict[int, tuple[int, int]] = {}
        """Size and time of change of each file when it was first read."""

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, row: int) -> Tensor:
        """Raises InputError, naming the image, where it cannot be decoded."""
        return torch.from_numpy(decode(self._content(row), self._names[row], self._background))

    def name(self, row: int) -> str:
        """The name of an image for people."""
        return self._names[row]

    def digest(self, row: int) -> bytes:
        """A digest of the decoded image: equal for equal encoded bytes."""
        return self._digests[row]

    def check(self) -> None:
        """Read every image once, without decoding those that are whole by their looks.

        Raises InputError, naming the first few, for what is no image, is cut off or is too large.
        """
        broken = [why for row in range(len(self)) if (why := self._wrong(row)) is not None]
        if broken:
            more = f" (and {len(broken) - 1:,} more)" if len(broken) > 1 else ""
            raise InputError(f"stream.image_column: {broken[0]}{more}")

    def _wrong(self, row: int) -> str | None:
        """The problem of an image, or None; computes its digest on the way."""
        name = self._names[row]
        try:
            content = self._content(row)
            self._digests[row] = self._digest_of(content)
            if not _is_whole(content):
                decode(content, name, self._background)
            if (place := _damage(content)) is not None:
                return f"{name} is damaged (its pixels break off at byte {place:,})"
        except InputError as error:
            return str(error).removeprefix("stream.image_column: ")
        except Exception as error:
            return _cannot(name, error)
        return None

    @cached_property
    def _digests(self) -> "_Digests":
        return _Digests(self)

    def _digest_of(self, content: bytes) -> bytes:
        rules = f"{_RULES}/{self._background}/".encode()
        return blake2b(rules + content, digest_size=16).digest()

    def _content(self, row: int) -> bytes:
        encoded = self._encoded[row]
        if isinstance(encoded, bytes):
            return encoded
        try:
            stat = encoded.stat()
            content = encoded.read_bytes()
        except OSError as error:
            raise InputError(
                f"stream.image_column: {self._names[row]} cannot be read ({error.strerror})"
            ) from None
        stamp = (stat.st_size, stat.st_mtime_ns)
        if self._stamps.setdefault(row, stamp) != stamp:
            raise InputError(
                f"stream.image_column: {self._names[row]} has changed since the run began"
            )
        return content

    def __getstate__(self) -> dict[str, Any]:
        contents = [self._content(row) for row in range(len(self))]
        sizes = np.array([len(each) for each in contents], dtype=np.int64)
        return {
            "content": np.frombuffer(b"".join(contents), dtype=np.uint8),
            "sizes": sizes,
            "names": self._names,
            "background": self._background,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Slices of one array, which may be shared between processes."""
        ends = np.cumsum(state["sizes"])
        starts = ends - state["sizes"]
        view = memoryview(state["content"])
        self._encoded = _Slices(view, starts.tolist(), ends.tolist())  # type: ignore[assignment]
        self._names = state["names"]
        self._background = state["background"]
        self._stamps = {}


class _Slices(Sequence[bytes]):
    """Bytes that lie one behind the other; one is copied when it is asked for."""

    def __init__(self, view: memoryview, starts: list[int], ends: list[int]) -> None:
        self._view, self._starts, self._ends = view, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: Any) -> Any:
        return bytes(self._view[self._starts[row] : self._ends[row]])


class _Digests(dict[int, bytes]):
    """Taken once each."""

    def __init__(self, images: EncodedImages) -> None:
        super().__init__()
        self._images = images

    def __missing__(self, row: int) -> bytes:
        found = self[row] = self._images._digest_of(self._images._content(row))
        return found


def decode(
    content: bytes, name: str, background: Background = "white", max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """An encoded image as 8-bit RGB [height, width, 3].

    Raises InputError, calling it `name`, where it is no image, is cut off or has more pixels than
    `max_pixels`, or than Pillow takes for safe; such an image is not decoded.
    """
    import PIL.Image
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            # What Pillow says of metadata is of no use here; what is too large is refused.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(content)) as opened:
                width, height = opened.size
                if max_pixels is not None and width * height > max_pixels:
                    raise ValueError(
                        f"it has {width} x {height} pixels; allowed are {max_pixels:,}"
                    )
                opened.load()
                picture: Picture = ImageOps.exif_transpose(opened)
                return np.array(_rgb(picture, background))
    except Exception as error:
        raise InputError(f"stream.image_column: {_cannot(name, error)}") from None


def _cannot(name: str, error: Exception) -> str:
    import PIL.Image
    from PIL import UnidentifiedImageError

    if isinstance(error, PIL.Image.DecompressionBombWarning | PIL.Image.DecompressionBombError):
        return f"{name} has too many pixels (allowed: {PIL.Image.MAX_IMAGE_PIXELS:,})"
    if isinstance(error, UnidentifiedImageError):
        return f"{name} is no image"
    reason = " ".join(str(error).split())
    return f"{name} cannot be decoded ({reason or type(error).__name__})"


def _is_whole(content: bytes) -> bool:
    """Whether an image has a header and, by its last bytes, all of its data; False where only
    decoding tells."""
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        with PIL.Image.open(io.BytesIO(content)) as opened:
            end = _ENDS.get(opened.format or "")
            if opened.format == "PNG":
                # Checks the sums of its chunks, which is quick.
                opened.verify()
            return end is not None and content.rstrip(b"\0\r\n ").endswith(end)


def _damage(content: bytes) -> int | None:
    """Where the pixels of a JPEG break off: at a marker that cannot stand among them. None where
    there is no such place, or where the segments before them are not as they should be, which the
    decoder will say."""
    at = 2
    while content[at : at + 1] == b"\xff":
        while content[at : at + 1] == b"\xff":
            at += 1
        marker = content[at] if at < len(content) else _END
        if marker == _END:
            return None
        at += 1 + int.from_bytes(content[at + 1 : at + 3], "big")
        if marker == _SCAN:
            found = _MARKER.search(content, at)
            if found is None:
                return None
            at = found.start()
            if found[1][0] not in _AFTER_DATA:
                return at
    return None


def _rgb(picture: "Picture", background: Background) -> "Picture":
    import PIL.Image

    if picture.mode.startswith("I") or picture.mode == "F":
        return PIL.Image.fromarray(_grey(np.asarray(picture), picture.mode)).convert("RGB")
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert("RGBA" if picture.mode == "RGBa" else "LA")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        ground = PIL.Image.new("RGBA", picture.size, (*[_GREYS[background]] * 3, 255))
        return PIL.Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
    return picture.convert("RGB")


def _grey(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """Greys of any depth as 8 bit."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    low, high = float(values.min()), float(values.max())
    if mode.startswith("I;16"):
        scale, low = 65535.0, 0.0
    elif low >= 0 and high <= 65535:
        tops = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
        scale, low = next(top for top in tops if high <= top), 0.0
    else:
        scale = (high - low) or 1.0
    return np.rint((values - low) * (255.0 / scale)).astype(np.uint8)

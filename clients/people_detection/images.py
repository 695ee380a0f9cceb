# SPDX-License-Identifier: Apache-2.0
"""Image files, as the network wants them. Image files are read and scaled by Pillow (the extra `images`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ...ipc.errors import CallerError, Code, invalid
from .layout import HEIGHT, WIDTH, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image


class LoadedImage(NamedTuple):
    """An image twice: for the network, and as it was."""

    tensor: npt.NDArray[np.float32]  # [3, 544, 960], values 0 to 1
    original: Pixels


def load_image(path: Path) -> LoadedImage:
    """The image of a file. Raises CallerError where there is none, where it cannot be read, and without Pillow."""
    need_pillow("reading an image file")
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # a broken file may raise any of them
        raise invalid(f"image {path} cannot be read: {error}") from error
    original = np.asarray(upright)
    return LoadedImage(as_tensor(original), original)


def as_tensor(pixels: Pixels) -> npt.NDArray[np.float32]:
    """What the network sees of an image of any size.

    It is stretched to 960 x 544 without keeping its proportions, as NVIDIA's clients do for DetectNet_v2.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise invalid(f"an image is an array of uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)}")
    if pixels.shape[:2] != (HEIGHT, WIDTH):
        need_pillow(f"scaling an image of {pixels.shape[1]} x {pixels.shape[0]} to {WIDTH} x {HEIGHT}")
        pixels = np.asarray(as_pillow(pixels).resize((WIDTH, HEIGHT)))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255)


def as_pillow(pixels: Pixels) -> Image:
    """The same image, for Pillow. Raises CallerError without it."""
    need_pillow("an image")
    from PIL import Image

    return Image.fromarray(pixels)


def need_pillow(what: str) -> None:
    """Raises CallerError where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401  # only whether it can be
    except ImportError as error:
        raise CallerError(f"{what} needs Pillow ({error}): pip install 'penstock[images]'", Code.UNSUPPORTED) from error

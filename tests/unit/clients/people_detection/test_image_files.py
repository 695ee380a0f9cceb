# SPDX-License-Identifier: Apache-2.0
"""Image files for the network, and boxes drawn on them; and what is said without Pillow."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.clients.people_detection.boxes import Box
from penstock.clients.people_detection.drawing import COLOURS, TEXT_COLOUR, draw_boxes
from penstock.clients.people_detection.images import as_tensor, load_image
from penstock.clients.people_detection.layout import Pixels
from penstock.ipc.errors import CallerError, Code

pillow = pytest.importorskip("PIL.Image")

GREY = 128


def grey(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), GREY, np.uint8)


def test_an_image_of_the_right_size_is_taken_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (544, 960, 3)).astype(np.uint8)
    tensor = as_tensor(pixels)
    assert (tensor.shape, tensor.dtype, tensor.flags.c_contiguous) == ((3, 544, 960), np.float32, True)
    assert (tensor[2, 17, 40], tensor.max(), tensor.min()) == (np.float32(pixels[17, 40, 2]) / np.float32(255), 1, 0)


def test_a_file_is_stretched_for_the_network_and_kept_as_it_was(tmp_path: Path) -> None:
    # Given a portrait whose upper half is red, with an alpha channel
    pixels = np.zeros((400, 200, 4), np.uint8)
    pixels[:200, :, 0] = pixels[..., 3] = 255
    pillow.fromarray(pixels).save(tmp_path / "portrait.png")

    loaded = load_image(tmp_path / "portrait.png")

    assert np.array_equal(loaded.original, pixels[..., :3])
    assert loaded.tensor[0, :250].min() == 1.0
    assert loaded.tensor[0, 300:].max() == 0.0


def test_a_photo_taken_sideways_stands_upright(tmp_path: Path) -> None:
    image = pillow.fromarray(grey(20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert load_image(tmp_path / "photo.jpg").original.shape == (10, 20, 3)


@pytest.mark.parametrize("content", [None, b"", b"no image", b"P6\nL0 40 255\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "street.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CallerError) as raised:
        load_image(path)
    assert f"image {path} cannot be read" in raised.value.message


def test_arrays_that_are_no_images_are_refused() -> None:
    with pytest.raises(CallerError, match=r"an image is an array of uint8 \[height, width, 3\], got float32 \[3, 544, 960\]"):
        as_tensor(np.zeros((3, 544, 960), np.float32))  # type: ignore[arg-type]


def test_without_pillow_files_cannot_be_read_but_images_of_the_right_size_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert as_tensor(grey(544, 960)).shape == (3, 544, 960)
    for attempt in (
        lambda: load_image(tmp_path / "street.png"),
        lambda: as_tensor(grey(100, 100)),
        lambda: draw_boxes(grey(544, 960), []),
    ):
        with pytest.raises(CallerError, match=r"needs Pillow .*: pip install 'penstock\[images\]'") as raised:
            attempt()
        assert raised.value.code is Code.UNSUPPORTED


def test_boxes_are_drawn_in_the_proportions_of_the_original() -> None:
    # Given a box found in the 960 x 544 of the network, and an original of twice that
    original = grey(1088, 1920)
    box = Box("person", 0.87, 100, 200, 300, 400)

    drawn = np.asarray(draw_boxes(original, [box]))

    # Then its sides are at twice its coordinates, the original is untouched, and its label stands above it in black
    assert (drawn[600, 200], drawn[600, 600], drawn[400, 400], drawn[800, 400]) == pytest.approx(
        np.array([COLOURS["person"]] * 4)
    )
    assert (drawn[600, 400] == GREY).all()
    assert (original == GREY).all()
    above = drawn[360:398, 200:340].reshape(-1, 3)
    assert (above == COLOURS["person"]).all(axis=1).any()
    assert (above == TEXT_COLOUR).all(axis=1).any()


@pytest.mark.parametrize("corner", [(0, 0, 30, 30), (930, 0, 960, 30), (930, 514, 960, 544), (0, 0, 960, 544)])
def test_labels_stay_in_the_image(corner: tuple[float, float, float, float]) -> None:
    drawn = np.asarray(draw_boxes(grey(544, 960), [Box("bag", 1.0, *corner)]))
    assert (drawn == TEXT_COLOUR).all(axis=2).sum() > 30


def test_labels_do_not_stand_on_one_another() -> None:
    # Given two people one of whom stands before the other
    one, two = Box("person", 0.9, 100, 100, 200, 300), Box("person", 0.8, 104, 102, 204, 302)
    drawn = [np.asarray(draw_boxes(grey(544, 960), boxes)) for boxes in ([one], [two], [one, two])]
    black = [int((image == TEXT_COLOUR).all(axis=2).sum()) for image in drawn]
    assert black[2] == pytest.approx(black[0] + black[1], rel=0.1)

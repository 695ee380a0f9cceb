# SPDX-License-Identifier: Apache-2.0
"""Draws 8 x 8 scans in a terminal, two block characters to a pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SHADES = " ░▒▓█"
BRIGHTEST = 16
"""Pixels of scikit-learn's digits go from 0 to 16."""
WIDTH = 16
"""Columns that a scan takes."""
GAP = "   "


def draw(images: npt.NDArray[np.uint8], captions: Sequence[str], columns: int) -> list[str]:
    """Lines of text: as many of the scans [n, 8, 8] as fit, side by side, each with its caption below."""
    fitting = max(1, (columns + len(GAP)) // (WIDTH + len(GAP)))
    drawn = [
        [*_rows(image), caption.center(WIDTH)] for image, caption in zip(images[:fitting], captions[:fitting], strict=True)
    ]
    return [GAP.join(line).rstrip() for line in zip(*drawn, strict=True)]


def _rows(image: npt.NDArray[np.uint8]) -> list[str]:
    shades = (image.astype(int) * (len(SHADES) - 1) + BRIGHTEST // 2) // BRIGHTEST
    return ["".join(SHADES[shade] * 2 for shade in row) for row in shades]

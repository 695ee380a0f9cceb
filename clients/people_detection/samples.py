# SPDX-License-Identifier: Apache-2.0
"""What comes with Penstock for the demonstration: two repositories with one detector, and a street for it to look at."""

from __future__ import annotations

from pathlib import Path

from ...ipc.errors import CallerError, Code
from .images import LoadedImage, as_tensor

REPOSITORIES = Path(__file__).parent / "repositories"
CONCURRENT, BATCHING = "trtis_model_repo_sample_1", "trtis_model_repo_sample_2"
"""Three instances of the model; one, with dynamic batching."""

SEED = 10
"""Of the street. None that the detector was trained on."""


def repository_at(place: str) -> Path:
    """A directory, or the sample of that name. Raises CallerError for what is neither."""
    if Path(place).is_dir():
        return Path(place).resolve()
    if place not in (CONCURRENT, BATCHING):
        raise CallerError(
            f"repository {place}: there is no such directory; {CONCURRENT} and {BATCHING} come with Penstock", Code.NOT_FOUND
        )
    return REPOSITORIES / place


def sample_image() -> LoadedImage:
    """The street, as it is drawn every time."""
    from .scenes import draw_scene

    pixels = draw_scene(SEED).pixels
    return LoadedImage(as_tensor(pixels), pixels)

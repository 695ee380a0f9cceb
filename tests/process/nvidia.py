# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's programs, as far as a machine without them can have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "programs" / "mps_control.py"


def with_mps_control(folder: Path, mood: str = "") -> dict[str, str]:
    """An environment in which nvidia-cuda-mps-control is programs/mps_control.py."""
    folder.mkdir(exist_ok=True)
    script = folder / "nvidia-cuda-mps-control"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROGRAM}" "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "MPS_CONTROL": mood}


def without_mps_control(folder: Path) -> dict[str, str]:
    """An environment in which there is none."""
    folder.mkdir(exist_ok=True)
    return {"PATH": str(folder)}

# SPDX-License-Identifier: Apache-2.0
"""Type hints as a user's own checker sees them: an installed package with py.typed, and a program with what it should infer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "process" / "programs" / "typed.py"


def test_a_checker_knows_what_every_call_returns_and_sees_mistakes(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs mypy (the extra `dev`)")
    # Given the packages as they are installed (mypy cannot follow an editable installation of a namespace's parts)
    for package in ("ipc", "clients"):
        shutil.copytree(
            ROOT / package, tmp_path / "penstock" / package, ignore=shutil.ignore_patterns("__pycache__", "cli", "perf")
        )
    # When a program is checked strictly, which also says where an expected mistake is none
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--namespace-packages",
        "--explicit-package-bases",
    ]
    checked = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), str(PROGRAM)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    # Then it finds nothing that was not expected
    assert checked.stdout.startswith("Success"), checked.stdout + checked.stderr

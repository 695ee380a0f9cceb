# SPDX-License-Identifier: Apache-2.0
"""Puts one-line faults into the code, one at a time, and sees that some test notices.

usage: python tests/mutants/run.py [NAME...]      exit status 1 when a fault survives

Each fault is applied to a copy of the packages, which stands before the installed ones on the path of a pytest process that
runs the tests named with the fault. The copy without any fault must pass them first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ipc", "runtime", "workers", "clients")


def main(names: Sequence[str]) -> int:
    """Runs the chosen faults, or all; returns the exit status."""
    chosen = [fault for fault in FAULTS if not names or fault.name in names]
    with tempfile.TemporaryDirectory(prefix="penstock-mutants-") as folder:
        site = Path(folder)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, site / "penstock" / package, ignore=shutil.ignore_patterns("__pycache__"))
        everything = sorted({test for fault in chosen for test in fault.tests})
        if not passes(site, everything):
            print("the tests fail without any fault; mend that first")
            return 1
        survivors = [fault.name for fault in chosen if not is_noticed(site, fault)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} faults noticed")
    for name in survivors:
        print(f"SURVIVED: {name}")
    return 1 if survivors else 0


def is_noticed(site: Path, fault: Fault) -> bool:
    """Applies one fault, runs its tests, takes it back."""
    path = site / "penstock" / fault.file
    original = path.read_text(encoding="utf-8")
    if original.count(fault.line) != 1:
        raise SystemExit(f"{fault.name}: {fault.file} must contain exactly once: {fault.line}")
    path.write_text(original.replace(fault.line, fault.instead), encoding="utf-8")
    try:
        noticed = not passes(site, fault.tests)
    finally:
        path.write_text(original, encoding="utf-8")
    print(f"{'noticed ' if noticed else 'SURVIVED'} {fault.name}", flush=True)
    return noticed


def passes(site: Path, tests: Sequence[str]) -> bool:
    """Whether pytest is content, with the copy in front of the installed package."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(site), "HYPOTHESIS_STORAGE_DIRECTORY": str(site / "hypothesis")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

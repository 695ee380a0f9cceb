# SPDX-License-Identifier: Apache-2.0

"""Puts one-line faults into the code, one at a time, and sees that some test notices.

usage: python tests/mutants/run.py [NAME...]      a NAME is a fault's, or a part of it
exit status: 0 every fault was noticed; 1 one survived; 2 the faults could not be judged: one does not fit the source, a test
fails without any fault, or pytest did not get as far as running tests

Each fault is applied to a copy of the packages, which stands before the installed ones on the path of a pytest process (and of
the processes that it starts) that runs the tests named with the fault. The copy without any fault must pass them all first.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fault import Fault, MisfitError
from faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ipc", "runtime", "workers", "clients")
TEST_LIMIT_S = 10
"""For one test: it is noticed, too, that a test does not come to its end."""
RUN_LIMIT_S = 60
"""For the tests of one fault, should pytest itself hang. All tests together, without a fault, may take five times as long."""
PASSED, FAILED = 0, 1  # pytest.ExitCode; anything else says that pytest could not run the tests
TAIL_CHARACTERS = 4000
NOTICED_BY = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", re.MULTILINE)


class CannotJudgeError(Exception):
    """Whether a fault is noticed cannot be said."""


class Outcome(NamedTuple):
    """What became of a pytest run: whether all passed, else the first test that did not, or that it hung."""

    passed: bool
    noticed_by: str


class Copy:
    """A copy of the packages, and pytest runs on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._site = folder / "site"
        self._log = folder / "pytest.log"

    def __repr__(self) -> str:
        return f"<Copy in {self._folder}>"

    def fill(self) -> None:
        """Copies the sources, compiled with hashes: a changed file is then compiled anew, whatever its time and size."""
        for package in PACKAGES:
            target = self._site / "penstock" / package
            shutil.copytree(ROOT / package, target, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(self._site, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)

    def check(self) -> None:
        """The copy is what is imported, and not what is installed."""
        program = "\n".join(f"import penstock.{package}; print(penstock.{package}.__file__)" for package in PACKAGES)
        found = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=self._environment(), capture_output=True, text=True, check=False
        )
        if found.returncode or not all(line.startswith(f"{self._site}{os.sep}") for line in found.stdout.splitlines()):
            raise CannotJudgeError(f"the copy is not what is imported: {found.stdout}{found.stderr}")

    def judge(self, fault: Fault) -> Outcome:
        """Applies the fault, runs its tests, takes it back."""
        path = self._site / "penstock" / fault.file
        original = path.read_text(encoding="utf-8")
        path.write_text(fault.applied(original), encoding="utf-8")
        try:
            return self.test(fault.tests, RUN_LIMIT_S)
        finally:
            path.write_text(original, encoding="utf-8")

    def test(self, tests: Iterable[str], limit_s: float) -> Outcome:
        """Runs tests. Raises CannotJudgeError when pytest does not get that far."""
        options = [
            "-x",
            "-q",
            "-rfE",
            "--tb=line",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_timeout",
            f"--timeout={TEST_LIMIT_S}",
        ]
        command = [sys.executable, "-m", "pytest", *options, f"--basetemp={self._folder / 'tmp'}", *tests]
        with self._log.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return Outcome(False, f"nothing came back within {limit_s} s")
            finally:
                _end(process)
        said = self._log.read_text(encoding="utf-8", errors="replace")
        if status not in (PASSED, FAILED):
            raise CannotJudgeError(f"pytest exited with status {status}:\n{said[-TAIL_CHARACTERS:]}")
        names = NOTICED_BY.findall(said)
        return Outcome(status == PASSED, names[0] if names else "")

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(self._site),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # Hypothesis's takes longer to load than most of these tests to run
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self._folder / "hypothesis"),
        }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends pytest and what it started, if it has not ended by itself."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def misfits(faults: Iterable[Fault]) -> list[str]:
    """Why faults cannot be put into the source as it is, one sentence each."""
    found: list[str] = []
    for fault in faults:
        try:
            fault.applied((ROOT / fault.file).read_text(encoding="utf-8"))
        except (MisfitError, OSError) as error:
            found.append(str(error))
    return found


def judge(copy: Copy, faults: Sequence[Fault]) -> list[str]:
    """The names of the faults that survive. Raises CannotJudgeError where this cannot be said."""
    copy.fill()
    copy.check()
    untouched = copy.test(sorted({test for fault in faults for test in fault.tests}), 5 * RUN_LIMIT_S)
    if not untouched.passed:
        raise CannotJudgeError(f"fails without any fault: {untouched.noticed_by}")
    survivors: list[str] = []
    for fault in faults:
        begun_s = time.monotonic()
        try:
            outcome = copy.judge(fault)
        except CannotJudgeError as error:
            raise CannotJudgeError(f"{fault.name}: {error}") from error
        took = f"{time.monotonic() - begun_s:4.1f} s"
        if outcome.passed:
            survivors.append(fault.name)
        print(f"{took}  {'SURVIVED' if outcome.passed else 'noticed '}  {fault.name}", flush=True)
        if not outcome.passed:
            print(f"                    by {outcome.noticed_by}", flush=True)
    return survivors


def main(names: Sequence[str]) -> int:
    """Judges the chosen faults, or all; returns the exit status."""
    chosen = [fault for fault in FAULTS if not names or any(name in fault.name for name in names)]
    problems = misfits(FAULTS) if chosen else [f"no fault is called {' or '.join(names)}"]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="penstock-mutants-") as folder:
        try:
            survivors = judge(Copy(Path(folder)), chosen)
        except CannotJudgeError as error:
            print(error, file=sys.stderr)
            return 2
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} faults noticed")
    for name in survivors:
        print(f"SURVIVED: {name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

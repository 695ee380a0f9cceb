# SPDX-License-Identifier: Apache-2.0
"""perf_analyzer, NVIDIA's load generator: the program of tritonclient's wheel for Linux, with the two libraries that it lacks.

libcudart comes from NVIDIA's own wheel. libb64 is in no small one: it is the system's, or that of Triton's wheel where this is
built, or Debian's package, unpacked here. Nobody has to be root, and nothing is installed in the system.

usage: analyzer.py      makes it where it is not there, in bench/cache

Exit status: 0 it starts; 1 it does not, and the reason is printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.environments import CACHE, Environment, Say, TritonFiles, UnavailableError, run, server_environment

ANALYZER, CUDART = "tritonclient==2.50.0", "nvidia-cuda-runtime-cu12==12.9.79"
BASE64_PACKAGE, BASE64 = "libb64-0d", "libb64.so.0d"
ATTEMPT_S = 60.0


@dataclass(frozen=True)
class AnalyzerFiles:
    """The program, and the folder of the libraries that it lacks."""

    environment: Environment

    @property
    def program(self) -> Path:
        return self.environment.folder / "bin" / "perf_analyzer"

    @property
    def libraries(self) -> Path:
        return self.environment.folder / "libraries"

    @property
    def started(self) -> Path:
        """There when it has been seen to start."""
        return self.environment.folder / "started"

    def variables(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": str(self.libraries)}

    def build(self, say: Say) -> None:
        """Makes what is not there. Raises UnavailableError."""
        self.environment.build(say)
        if not self.started.exists():
            self._complete(say)
        self.started.touch()

    def _complete(self, say: Say) -> None:
        """Its libraries, beside it. Raises UnavailableError."""
        self.libraries.mkdir(exist_ok=True)
        for library in (self.environment.packages / "nvidia" / "cuda_runtime" / "lib").glob("libcudart.so.*"):
            shutil.copyfile(library, self.libraries / library.name)
        if BASE64 in self._lacks():
            with tempfile.TemporaryDirectory(prefix="penstock-analyzer-") as folder:
                shutil.copyfile(self._base64(Path(folder), say), self.libraries / BASE64)
        if lacks := self._lacks():
            raise UnavailableError(f"perf_analyzer does not start: {lacks}")

    def _lacks(self) -> str:
        """What it says where it does not start, as the loader does of a library that is missing."""
        done = subprocess.run(
            [str(self.program), "--version"],
            env=self.variables(),
            capture_output=True,
            text=True,
            check=False,
            timeout=ATTEMPT_S,
        )
        return (done.stderr.strip() or f"it ended with {done.returncode}") if done.returncode else ""

    def _base64(self, folder: Path, say: Say) -> Path:
        of_triton = sorted(TritonFiles(server_environment(self.environment.cache)).libraries.glob("libb64-*.so.0d"))
        return of_triton[0] if of_triton else unpacked(BASE64_PACKAGE, BASE64, folder, say)


def analyzer_environment(cache: Path = CACHE) -> Environment:
    """perf_analyzer is a program by itself: nothing of Python is used."""
    return Environment("analyzer", bare=(ANALYZER, CUDART), cache=cache)


def unpacked(package: str, name: str, folder: Path, say: Say) -> Path:
    """A file of a Debian package, which is downloaded into a folder and not installed. Raises UnavailableError.

    apt-get's lists of packages may never have been fetched here, and only root may fetch them into their place: then they go
    into the folder too.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise UnavailableError(f"{name} is not installed, and there is no apt-get to download {package} with")
    for own in ("lists/partial", "archives/partial"):
        (folder / own).mkdir(parents=True)
    own_lists = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}"]
    say(f"downloading {package} for {name}")
    try:
        run(["apt-get", "download", package], folder)
    except UnavailableError:
        run(["apt-get", *own_lists, "update"], folder)
        run(["apt-get", *own_lists, "download", package], folder)
    archives = sorted(folder.glob(f"{package}_*.deb"))
    if not archives:
        raise UnavailableError(f"apt-get downloaded no {package}")
    run(["dpkg-deb", "--extract", str(archives[0]), str(folder / "content")])
    found = sorted((folder / "content").rglob(name))
    if not found:
        raise UnavailableError(f"{archives[0].name} has no {name}")
    return found[0].resolve()


def main() -> int:
    try:
        AnalyzerFiles(analyzer_environment()).build(print)
    except (UnavailableError, OSError, subprocess.TimeoutExpired) as error:
        print(f"perf_analyzer is not available: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The virtual environments of the peers, in a folder that git ignores: what is in each, and how it is made.

Nothing of them comes into the environment of the project, and nothing of the system is changed: the tritonserver and its Python
backend are those of the wheel of nvidia-pytriton. analyzer.py has perf_analyzer's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / "cache" / "peers"
PYTRITON, MOSEC = "nvidia-pytriton==0.7.0", "mosec==0.9.8"
INSTALL_S = 900.0

Say = Callable[[str], None]


class UnavailableError(Exception):
    """A peer that cannot be had or does not start here, with the reason."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment. Of `bare` only the packages themselves are wanted, without what they depend on."""

    name: str
    requirements: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    cache: Path = CACHE

    @property
    def folder(self) -> Path:
        return self.cache / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    @property
    def stamp(self) -> Path:
        """There when everything is installed; its name says what and for which Python."""
        content = "\n".join([sys.version, *self.requirements, "--", *self.bare])
        return self.folder / f"built-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def commands(self) -> list[list[str]]:
        """What makes it, in order."""
        install = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        made = [[sys.executable, "-m", "venv", "--clear", str(self.folder)]]
        if self.requirements:
            made.append([*install, *self.requirements])
        if self.bare:
            made.append([*install, "--no-deps", *self.bare])
        return made

    def build(self, say: Say) -> None:
        """Makes it where it is missing or was made from other requirements. Raises UnavailableError."""
        wanted = ", ".join((*self.bare, *self.requirements))
        if self.stamp.exists():
            say(f"{self.name}: is there ({wanted})")
            return
        say(f"{self.name}: installing {wanted}")
        for command in self.commands():
            run(command)
        self.stamp.touch()


def server_environment(cache: Path = CACHE) -> Environment:
    """Triton, and what its Python models import: onnxruntime as the project's own worker has it.

    Of numpy a 1.x, as the wheel demands: with 2.x every output is empty (binary_data_size 0), since the stub was compiled for
    what an array of 1.x looks like. There is none for Python 3.13.
    """
    return Environment("server", ("numpy<2", f"onnxruntime=={version('onnxruntime')}"), (PYTRITON,), cache)


def mosec_environment(cache: Path = CACHE) -> Environment:
    return Environment("mosec", (MOSEC, f"numpy=={version('numpy')}"), cache=cache)


@dataclass(frozen=True)
class TritonFiles:
    """Where the parts of the server lie."""

    environment: Environment

    @property
    def root(self) -> Path:
        return self.environment.packages / "pytriton" / "tritonserver"

    @property
    def libraries(self) -> Path:
        return self.environment.packages / "nvidia_pytriton.libs"

    @property
    def program(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        return self.root / "backends"

    @property
    def stub(self) -> Path:
        return self.backends / "python" / "triton_python_backend_stub"

    def complete(self) -> None:
        """The stub of this Python beside the backend, programs executable. Raises UnavailableError."""
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        source = self.root / "python_backend_stubs" / python / self.stub.name
        if not source.is_file():
            raise UnavailableError(f"{PYTRITON} has no stub of the Python backend for Python {python}")
        shutil.copyfile(source, self.stub)
        for program in (self.program, self.stub):
            program.chmod(0o755)

    def variables(self) -> dict[str, str]:
        """The environment it is started with.

        The stub embeds an isolated Python, which takes no PYTHONPATH. It finds itself through PATH, as an activated environment
        is found, and so the packages there; and the loader finds libpython beside the interpreter that the environment is of.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_", "PENSTOCK_"))}
        paths = [str(self.libraries)]
        library, folder = (sysconfig.get_config_var(name) for name in ("INSTSONAME", "LIBDIR"))
        if library and folder and Path(folder, library).is_file():  # else it is the system's, where the loader looks
            paths.append(folder)
        return {
            **kept, "LD_LIBRARY_PATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "ORT_DISABLE_TELEMETRY": "1",
            "PATH": os.pathsep.join([str(self.environment.python.parent), os.environ.get("PATH", os.defpath)]),
        }  # fmt: skip


def run(command: Sequence[str], folder: Path | None = None) -> None:
    """Runs it in a folder. Raises UnavailableError with the last lines that the command said."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(str(error)) from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip() and not line.startswith("WARNING")]
        raise UnavailableError(f"{' '.join(command[:4])} ... ended with {done.returncode}: {' / '.join(said[-3:])}")

# SPDX-License-Identifier: Apache-2.0
"""Reading model repositories: REPOSITORY/MODEL/config.pbtxt and REPOSITORY/MODEL/VERSION/. Blocks; called from a helper thread.

One bad model does not stop the others: what is wrong with it is kept under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ...ipc.errors import CallerError, Code, PenstockError, invalid, not_found
from .agent_runs import AgentRun
from .backends import BACKENDS, detect
from .configuration import ModelConfig, agents_of, parse_config
from .versions import choose, numbered

CONFIG_NAME = "config.pbtxt"
NO_MODELS = frozenset({"__pycache__", "lost+found"})
"""Directories that are nobody's model; hidden ones are not either."""


class ModelSource(Struct, frozen=True):
    """A model that can be served. `versions`: those its version policy chose, lowest first; each has a directory.

    `agents`, where it has any, have had LOAD; whoever takes the source calls the rest.
    """

    name: str
    directory: Path
    config: ModelConfig
    versions: tuple[int, ...]
    agents: AgentRun | None = None

    @property
    def location(self) -> Path:
        """Where the model is to be loaded from: its directory, or what its agents have made of it."""
        return self.agents.location if self.agents else self.directory


class ScanResult(Struct, frozen=True):
    """What the repositories hold: models, by name, and the reasons why others are none."""

    sources: list[ModelSource]
    failures: dict[str, str]


def scan(repositories: Sequence[str | Path], gpu_fallback: bool = False) -> ScanResult:
    """Reads all models of all repositories. Raises CallerError for a repository that is not a readable directory."""
    found: dict[str, list[Path]] = {}
    for repository in dict.fromkeys(Path(path).absolute() for path in repositories):
        for directory in _subdirectories_of_repository(repository):
            if not (directory.name.startswith(".") or directory.name in NO_MODELS):
                found.setdefault(directory.name, []).append(directory)
    sources: list[ModelSource] = []
    failures: dict[str, str] = {}
    for name, directories in sorted(found.items()):
        try:
            sources.append(_only_source(name, directories, gpu_fallback))
        except PenstockError as error:
            failures[name] = error.message
    return ScanResult(sources, failures)


def read_model(directory: Path, gpu_fallback: bool = False) -> ModelSource:
    """Reads one model directory, after its agents. Raises PenstockError that says what is missing or wrong."""
    try:
        text = _text(directory / CONFIG_NAME)
        settings = agents_of(text, directory / CONFIG_NAME, directory.name)
        if not settings:
            return _read_model(directory.name, directory, gpu_fallback)
        agents = AgentRun(directory.name, directory, settings)
        location = agents.load()
        try:
            return replace(_read_model(directory.name, location, gpu_fallback), directory=directory, agents=agents)
        except BaseException:
            agents.fail()
            raise
    except OSError as error:
        place = f"{directory.name}/{Path(error.filename).name}" if error.filename else directory.name
        raise CallerError(f"{place}: cannot be read: {error.strerror}", Code.UNAVAILABLE) from error


def _only_source(name: str, directories: Sequence[Path], gpu_fallback: bool) -> ModelSource:
    if len(directories) > 1:
        places = ", ".join(str(directory.parent) for directory in directories)
        raise invalid(
            f"model '{name}' is ambiguous: it is in {len(directories)} repositories: {places}; keep it in one of them"
        )
    return read_model(directories[0], gpu_fallback)


def _read_model(name: str, directory: Path, gpu_fallback: bool) -> ModelSource:
    versions, warnings = numbered(_subdirectories(directory))
    files = sorted(path.name for path in (directory / str(versions[0])).iterdir()) if versions else []
    path = directory / CONFIG_NAME
    text = _text(path)
    detected = detect(name, files)
    if not (text or detected):
        raise invalid(
            f"Invalid model name: Could not determine backend for model '{name}' with no backend in model configuration. "
            f"Expected model name of the form 'model.<backend_name>'; it has neither {CONFIG_NAME} nor a known model file in "
            f"{versions[0] if versions else 'a version directory'}/"
        )
    config = parse_config(text, path, name, gpu_fallback=gpu_fallback, detected_backend=detected)
    chosen, missing = choose(name, config.proto, versions)
    for version in chosen:
        _check_files(directory, version, config)
    warnings = [*config.warnings, *(f"{name}: {warning}" for warning in warnings + missing)]
    return ModelSource(name, directory, replace(config, warnings=tuple(warnings)), chosen)


def _check_files(directory: Path, version: int, config: ModelConfig) -> None:
    if not BACKENDS[config.backend].filename:
        return
    path = directory / str(version) / config.filename
    name = f"{config.name}/{version}/{config.filename}"
    if path.is_dir():
        raise invalid(f"model file {name} is a directory; a file is needed")
    if not path.is_file():
        fix = f"name another one with default_model_filename in {CONFIG_NAME}"
        raise not_found(f"model file {name} is missing; {fix}")


def _text(path: Path) -> str:
    """What the configuration says; nothing where there is none."""
    if not path.exists():
        return ""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise invalid(f"{path.parent.name}/{path.name}: is not UTF-8 text: byte {error.start} {error.reason}") from None


def _subdirectories(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.is_dir()]


def _subdirectories_of_repository(repository: Path) -> list[Path]:
    if not repository.is_dir():
        why = "is not a directory" if repository.exists() else "does not exist"
        raise not_found(f"model repository {repository} {why}")
    try:
        return [repository / name for name in _subdirectories(repository)]
    except OSError as error:
        raise CallerError(f"model repository {repository} cannot be read: {error.strerror}", Code.UNAVAILABLE) from error

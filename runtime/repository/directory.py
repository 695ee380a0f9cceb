# SPDX-License-Identifier: Apache-2.0
"""Reading model repositories: REPOSITORY/MODEL/config.pbtxt and REPOSITORY/MODEL/VERSION/. Blocks; called from a helper thread.

Finding models and reading one of them are apart, so that a bad one does not stop the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ...ipc.errors import CallerError, Code, invalid, not_found
from .agent_runs import AgentRun
from .backends import BACKENDS, detect
from .configuration import ModelConfig, agents_of, agents_of_override, parse_config, parse_override
from .placement import ANYWHERE, Placing
from .stamps import CONFIG_NAME
from .versions import choose, numbered

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


def find_models(repositories: Sequence[str | Path]) -> dict[str, list[Path]]:
    """Name -> the directories of that name, in the order of the repositories; more than one is ambiguous.

    Raises CallerError for a repository that is not a readable directory.
    """
    found: dict[str, list[Path]] = {}
    for repository in _distinct(repositories):
        for directory in _subdirectories_of_repository(repository):
            if is_model_name(directory.name):
                found.setdefault(directory.name, []).append(directory)
    return found


class UnknownModelError(CallerError):
    """No repository has a model of that name."""


def is_model_name(name: str) -> bool:
    """Whether a directory of this name is taken for a model."""
    return not (name.startswith(".") or name in NO_MODELS)


def find_model(repositories: Sequence[str | Path], name: str) -> list[Path]:
    """The same for one model, without a look at the others."""
    found = [repository / name for repository in _distinct(repositories) if is_model_name(name)]
    return [directory for directory in found if directory.is_dir()]


def _distinct(repositories: Sequence[str | Path]) -> list[Path]:
    return list(dict.fromkeys(Path(path).absolute() for path in repositories))


def only_directory(name: str, directories: Sequence[Path]) -> Path:
    """The directory of a model. Raises CallerError when there is none, or more than one."""
    if not directories:
        raise UnknownModelError("model not found in any model repository", Code.NOT_FOUND)
    if len(directories) > 1:
        places = ", ".join(str(directory.parent) for directory in directories)
        raise invalid(
            f"model '{name}' is ambiguous: it is in {len(directories)} repositories: {places}; keep it in one of them"
        )
    return directories[0]


def read_model(directory: Path, placing: Placing = ANYWHERE, override: str = "") -> ModelSource:
    """Reads one model directory, after its agents, with the configuration `override` if there is one.

    Raises PenstockError that says what is missing or wrong; agents that were called have then been told.
    """
    try:
        path = directory / CONFIG_NAME
        settings = agents_of_override(override, directory.name) if override else agents_of(_text(path), path, directory.name)
        if not settings:
            return _read_model(directory.name, directory, placing, override)
        agents = AgentRun(directory.name, directory, settings)
        location = agents.load()
        try:
            return replace(_read_model(directory.name, location, placing, override), directory=directory, agents=agents)
        except BaseException:
            agents.fail()
            raise
    except OSError as error:
        place = f"{directory.name}/{Path(error.filename).name}" if error.filename else directory.name
        raise CallerError(f"{place}: cannot be read: {error.strerror}", Code.UNAVAILABLE) from error


def _read_model(name: str, directory: Path, placing: Placing, override: str) -> ModelSource:
    versions, warnings = numbered(_subdirectories(directory))
    files = sorted(path.name for path in (directory / str(versions[0])).iterdir()) if versions else []
    path = directory / CONFIG_NAME
    text = override or _text(path)
    detected = detect(name, files)
    if not (text or detected):
        raise invalid(
            f"Invalid model name: Could not determine backend for model '{name}' with no backend in model configuration. "
            f"Expected model name of the form 'model.<backend_name>'; it has neither {CONFIG_NAME} nor a known model file in "
            f"{versions[0] if versions else 'a version directory'}/"
        )
    if override:
        config = parse_override(override, name, placing=placing, detected_backend=detected)
    else:
        config = parse_config(text, path, name, placing=placing, detected_backend=detected)
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

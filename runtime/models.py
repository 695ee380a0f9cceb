# SPDX-License-Identifier: Apache-2.0
"""The model versions a broker serves: their state, their instances, their statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from ..ipc.errors import Code, ModelError, not_found
from ..ipc.messages import InputTensor, ModelSpec, OutputPlace, TensorSpec
from ..ipc.tensors import byte_size
from .records import Record

if TYPE_CHECKING:
    from .instances import Instance
    from .repository.configuration import ModelConfig


class ModelState(Enum):
    """Triton's states of a model version (its repository index spells them so)."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


#: state -> states it may become. LOADING: no instance has been ready yet. READY: has been, and instances are restarted when
#: they die. UNAVAILABLE: gave up, with a reason; an instance that becomes ready after all (attached by hand) ends it.
TRANSITIONS: dict[ModelState, frozenset[ModelState]] = {
    ModelState.LOADING: frozenset({ModelState.READY, ModelState.UNAVAILABLE}),
    ModelState.READY: frozenset({ModelState.UNAVAILABLE}),
    ModelState.UNAVAILABLE: frozenset({ModelState.READY}),
}


class ServedModel:
    """One version of one model. `number` is its generation: unique per load, what the scheduler knows it by."""

    def __init__(self, number: int, config: ModelConfig, version: int, directory: str) -> None:
        self.number = number
        self.name = config.name
        self.version = version
        self.label = f"{config.name}/{version}"
        self.directory = directory
        self.state = ModelState.LOADING
        self.reason = ""
        self.accepts = False  # READY; a plain attribute because each request reads it
        self.uses_cache = False  # its configuration enables the response cache, and there is one
        self.instances: list[Instance] = []
        self.record = Record()
        self.configure(config)

    def __repr__(self) -> str:
        return f"<ServedModel {self.label} {self.state.value} {self.reason!r} {len(self.instances)} instances>"

    def configure(self, config: ModelConfig) -> None:
        """Takes a configuration (again, once it has been completed from the model's own signature)."""
        self.config = config
        self.spec: ModelSpec = config.spec(self.version)
        self.batches = self.spec.max_batch_size > 0
        #: all requests fit into one batch: Triton compares neither ragged inputs nor dims that cannot vary
        self.fixed_shapes = all(
            not spec.optional and (spec.ragged or all(dim >= 0 for dim in spec.dims)) for spec in self.spec.inputs
        )
        inputs = {spec.name: position for position, spec in enumerate(self.spec.inputs)}
        #: output -> the input whose shape it gets, both by position
        self.shaped_as = {output: inputs[s.shaped_as] for output, s in enumerate(self.spec.outputs) if s.shaped_as}
        self.output_position = {spec.name: position for position, spec in enumerate(self.spec.outputs)}
        self.unplaced = [OutputPlace(spec.name) for spec in self.spec.outputs]

    def become(self, state: ModelState, reason: str = "") -> None:
        """Moves along TRANSITIONS; staying where it is may change the reason."""
        if state is not self.state and state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value} ({reason})")
        self.state = state
        self.reason = reason
        self.accepts = state is ModelState.READY

    def check_invariants(self) -> None:
        """The shortcut for the hot path agrees with the state."""
        assert self.accepts == (self.state is ModelState.READY), self
        self.record.check_invariants()
        assert (self.state is ModelState.UNAVAILABLE) <= bool(self.reason), self

    def full_shape(self, spec: TensorSpec, rows: int) -> list[int]:
        """A tensor's shape with the batch dimension in front, where the model has one."""
        return [rows, *spec.dims] if self.batches else spec.dims

    def output_shape(self, position: int, rows: int, inputs: Sequence[InputTensor | None]) -> list[int]:
        """Shape of an output for this many rows and these inputs, in the order of the spec; -1 where only execution tells."""
        source = self.shaped_as.get(position)
        tensor = None if source is None else inputs[source]
        return self.full_shape(self.spec.outputs[position], rows) if tensor is None else tensor.shape

    def output_bytes(self, position: int, rows: int, inputs: Sequence[InputTensor | None]) -> int | None:
        """Bytes of an output; None where only execution tells."""
        return byte_size(self.spec.outputs[position].datatype, self.output_shape(position, rows, inputs))

    @property
    def is_ready(self) -> bool:
        """Whether a request sent now would be executed: accepted, and some instance is up."""
        return self.accepts and any(instance.is_ready for instance in self.instances)

    def unavailable(self) -> ModelError:
        """Why a request for this version is refused."""
        reason = f": {self.reason}" if self.reason else ""
        text = f"Request for unknown model: '{self.name}' version {self.version} is not at ready state"
        return ModelError(f"{text} ({self.state.value}{reason})", Code.UNAVAILABLE)


class ModelTable:
    """Model versions by name, and what failed to become one."""

    def __init__(self, has_cache: bool = False) -> None:
        self._has_cache = has_cache
        self._count = 0
        #: name -> version -> served model
        self._by_name: dict[str, dict[int, ServedModel]] = {}
        #: generation -> the same objects
        self._by_number: dict[int, ServedModel] = {}
        #: name of a model that could not be read from its repository -> why
        self.failures: dict[str, str] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_number.values())

    def __repr__(self) -> str:
        return f"<ModelTable {[model.label for model in self]} failures {sorted(self.failures)}>"

    def check_invariants(self) -> None:
        """Both indexes hold the same objects."""
        assert {id(model) for model in self} == {id(m) for versions in self._by_name.values() for m in versions.values()}
        for model in self:
            model.check_invariants()

    def add(self, config: ModelConfig, version: int, directory: str) -> ServedModel:
        """A new version, LOADING."""
        self._count += 1
        model = ServedModel(self._count, config, version, directory)
        model.uses_cache = self._has_cache and config.is_cached
        self._by_name.setdefault(model.name, {})[version] = model
        self._by_number[model.number] = model
        return model

    def by_number(self, number: int) -> ServedModel:
        """The version of a generation."""
        return self._by_number[number]

    def versions(self, name: str) -> list[ServedModel]:
        """All versions of a model, lowest first. Raises CallerError (NOT_FOUND), or ModelError when it failed to load."""
        if name in self.failures:
            raise ModelError(
                f"Request for unknown model: '{name}' has no available versions: {self.failures[name]}", Code.UNAVAILABLE
            )
        found = self._by_name.get(name)
        if not found:
            raise not_found(
                f"Request for unknown model: '{name}' is not found; known are {', '.join(sorted(self._by_name)) or 'none'}"
            )
        return [found[version] for version in sorted(found)]

    def find(self, name: str, version: int) -> ServedModel:
        """The version asked for, or with -1 the highest that accepts requests (else the highest). Raises as `versions`."""
        versions = self.versions(name)
        if version < 0:
            return next((model for model in reversed(versions) if model.accepts), versions[-1])
        for model in versions:
            if model.version == version:
                return model
        known = ", ".join(str(model.version) for model in versions)
        raise not_found(f"Request for unknown model: '{name}' version {version} is not found; it has {known}")

    def summary(self) -> list[dict[str, Any]]:
        """Triton's repository index: name, version, state, reason."""
        rows = [
            {"name": model.name, "version": str(model.version), "state": model.state.value, "reason": model.reason}
            for model in self
        ]
        rows += [
            {"name": name, "version": "", "state": ModelState.UNAVAILABLE.value, "reason": reason}
            for name, reason in sorted(self.failures.items())
        ]
        return rows

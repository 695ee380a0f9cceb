# SPDX-License-Identifier: Apache-2.0
"""The model versions a broker serves: their state, their instances, their statistics.

A version that is loaded again is another generation of it, a ServedModel of its own: with new workers, new statistics, and
perhaps other tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from ..ipc.errors import Code, ModelError, PenstockError, not_found
from ..ipc.messages import InputTensor, ModelSpec, OutputPlace, TensorSpec
from ..ipc.tensors import byte_size
from .records import Record

if TYPE_CHECKING:
    from .instances import Instance
    from .repository.configuration import ModelConfig
    from .repository.origins import Origin

UNLOADED = "unloaded"
"""Triton's reason for a model that was unloaded on purpose; readiness does not mind it."""


class ModelState(Enum):
    """Triton's states of a model version (its repository index spells them so)."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    UNLOADING = "UNLOADING"


#: state -> states it may become. LOADING: no instance has been ready yet. READY: has been, and instances are restarted when
#: they die. UNAVAILABLE: gave up, with a reason; an instance that becomes ready after all (attached by hand) ends it.
#: UNLOADING: takes no more requests, finishes those that it has, and is then forgotten.
TRANSITIONS: dict[ModelState, frozenset[ModelState]] = {
    ModelState.LOADING: frozenset({ModelState.READY, ModelState.UNAVAILABLE, ModelState.UNLOADING}),
    ModelState.READY: frozenset({ModelState.UNAVAILABLE, ModelState.UNLOADING}),
    ModelState.UNAVAILABLE: frozenset({ModelState.READY, ModelState.UNLOADING}),
    ModelState.UNLOADING: frozenset(),
}


class ServedModel:
    """One version of one model. `number` is its generation: unique per load, what the scheduler knows it by.

    `origin`: where its files come from, which several versions may share; None for what comes from nowhere (in tests).
    """

    def __init__(self, number: int, config: ModelConfig, version: int, directory: str, origin: Origin | None = None) -> None:
        self.number = number
        self.name = config.name
        self.version = version
        self.label = f"{config.name}/{version}"
        self.directory = directory
        self.origin = origin
        self.state = ModelState.LOADING
        self.reason = ""
        self.is_added = False  # the scheduler knows it: an instance has been ready
        self.accepts = False  # READY; a plain attribute because each request reads it
        self.uses_cache = False  # its configuration enables the response cache, and there is one
        self.asked_ns = 0  # when its workers were asked for, on the broker's clock; 0: not yet, or somebody starts them by hand
        self.instances: list[Instance] = []
        #: names of instances that the load under way waits for: not yet READY, and not given up either
        self.awaited: set[str] = set()
        #: names of instances that were given up -> why
        self.lost: dict[str, PenstockError] = {}
        self.record = Record()
        self.configure(config)

    def __repr__(self) -> str:
        return f"<ServedModel {self.label} {self.state.value} {self.reason!r} {len(self.instances)} instances>"

    def configure(self, config: ModelConfig) -> None:
        """Takes a configuration (again, once it has been completed from the model's own signature)."""
        self.config = config
        self.spec: ModelSpec = config.spec(self.version, self.directory)
        #: uuids of the GPUs that its instances compute on; none: it runs on the CPU
        self.gpus = set(config.uuids.values())
        #: uuid -> ordinal of those GPUs that a request may have to be bound to: its instances are on other devices too
        self.ordinals = {uuid: ordinal for ordinal, uuid in config.uuids.items()} if len(config.devices) > 1 else {}
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

    def count_in(self, now_ns: int) -> None:
        """Its first instance is ready: loading is over, and the scheduler is about to be told of it."""
        self.is_added = True
        self.record.load_ns = now_ns - self.asked_ns if self.asked_ns else 0

    def check_invariants(self) -> None:
        """The shortcut for the hot path agrees with the state."""
        assert self.accepts == (self.state is ModelState.READY), self
        assert not (self.awaited and self.state is ModelState.UNLOADING), self
        assert not self.awaited & self.lost.keys(), self
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
    """Model versions by name, what failed to become one, and what no longer is one.

    A generation is current, which means that requests for its name and version go to it, or it is loading beside the one that
    is, or it has been replaced or unloaded and its last requests are being finished.
    """

    def __init__(self, has_cache: bool = False) -> None:
        self._has_cache = has_cache
        self._count = 0
        #: name -> version -> the current generation; no name without a version
        self._current: dict[str, dict[int, ServedModel]] = {}
        #: generation -> served model, from `add` until `forget`
        self._by_number: dict[int, ServedModel] = {}
        #: name of a model of which nothing is current, and that could not be read from its repository -> why
        self.failures: dict[str, str] = {}
        #: name of a model of which nothing is current, and that was unloaded -> the versions that it had
        self.unloaded: dict[str, tuple[int, ...]] = {}
        #: names that the repositories hold, as far as they have been read
        self.known: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[ServedModel]:
        """Every generation."""
        return iter(list(self._by_number.values()))

    def __repr__(self) -> str:
        models = [f"{model.label} {model.state.value}" for model in self]
        return f"<ModelTable {models} failures {sorted(self.failures)} unloaded {sorted(self.unloaded)}>"

    def check_invariants(self) -> None:
        """What is current is there; what says why nothing is current is about no model that has something current."""
        for name, versions in self._current.items():
            assert versions, self
            for version, model in versions.items():
                assert (model.name, model.version) == (name, version) and self._by_number.get(model.number) is model, self
        assert not (self.failures.keys() | self.unloaded.keys()) & self._current.keys(), self
        for model in self:
            model.check_invariants()

    # --- generations -----------------------------------------------------------------------------------------------------

    def add(self, config: ModelConfig, version: int, directory: str, origin: Origin | None = None) -> ServedModel:
        """A new generation, LOADING and not current."""
        self._count += 1
        model = ServedModel(self._count, config, version, directory, origin)
        model.uses_cache = self._has_cache and config.is_cached
        self._by_number[model.number] = model
        return model

    def put_forward(self, model: ServedModel) -> ServedModel | None:
        """Makes a generation the current one; returns the one that was, to be retired."""
        self.failures.pop(model.name, None)
        self.unloaded.pop(model.name, None)
        versions = self._current.setdefault(model.name, {})
        replaced = versions.get(model.version)
        versions[model.version] = model
        return replaced

    def take_back(self, model: ServedModel) -> None:
        """The generation is not current any more, if it was."""
        versions = self._current.get(model.name, {})
        if versions.get(model.version) is model:
            del versions[model.version]
            if not versions:
                del self._current[model.name]

    def forget(self, model: ServedModel) -> None:
        """The generation is gone: its requests have ended, its workers have left."""
        self.take_back(model)
        del self._by_number[model.number]

    def by_number(self, number: int) -> ServedModel:
        """The version of a generation."""
        return self._by_number[number]

    def generations(self, name: str) -> list[ServedModel]:
        """All that there is of a model, current or not."""
        return [model for model in self if model.name == name]

    def current(self, name: str = "") -> list[ServedModel]:
        """What requests can go to, of one model (lowest version first) or of all."""
        found = [self._current.get(name, {})] if name else self._current.values()
        return [versions[version] for versions in found for version in sorted(versions)]

    # --- finding ---------------------------------------------------------------------------------------------------------

    def versions(self, name: str) -> list[ServedModel]:
        """All versions of a model, lowest first. Raises CallerError (NOT_FOUND), or ModelError when none can be had."""
        found = self.current(name) if name else []
        if found:
            return found
        if name in self.failures or name in self.unloaded:
            raise _none_available(name, self.failures.get(name, UNLOADED))
        raise not_found(
            f"Request for unknown model: '{name}' is not found; known are {', '.join(sorted(self._current)) or 'none'}"
        )

    def find(self, name: str, version: int) -> ServedModel:
        """The version asked for; -1: the highest that accepts requests, else the highest that stays. Raises as `versions`."""
        versions = self.versions(name)
        if version < 0:
            staying = [model for model in versions if model.state is not ModelState.UNLOADING]
            if not staying:
                raise _none_available(name, "it is being unloaded")
            return next((model for model in reversed(staying) if model.accepts), staying[-1])
        for model in versions:
            if model.version == version:
                return model
        known = ", ".join(str(model.version) for model in versions)
        raise not_found(f"Request for unknown model: '{name}' version {version} is not found; it has {known}")

    def summary(self) -> list[dict[str, Any]]:
        """Triton's repository index: name, version, state, reason. A model that was never loaded has a name only."""
        shown = {(model.name, model.version): model for model in self.current()}
        for model in self:  # a version that is loading for the first time beside others
            if model.state is ModelState.LOADING:
                shown.setdefault((model.name, model.version), model)
        rows = [_row(name, str(version), model.state.value, model.reason) for (name, version), model in shown.items()]
        gone = ModelState.UNAVAILABLE.value
        rows += [_row(name, "", gone, reason) for name, reason in self.failures.items()]
        rows += [_row(name, str(number), gone, UNLOADED) for name, numbers in self.unloaded.items() for number in numbers]
        rows += [_row(name, "", "", "") for name in self.known - {row["name"] for row in rows}]
        return sorted(rows, key=lambda row: (row["name"], int(row["version"] or 0)))


def _row(name: str, version: str, state: str, reason: str) -> dict[str, Any]:
    return {"name": name, "version": version, "state": state, "reason": reason}


def _none_available(name: str, why: str) -> ModelError:
    return ModelError(f"Request for unknown model: '{name}' has no available versions: {why}", Code.UNAVAILABLE)

# SPDX-License-Identifier: Apache-2.0
"""A model's configuration: parsed, checked, normalised, frozen; and completed from the model file where it leaves things out.

The way of a text: mistakes.parse (protobuf, with better complaints), fields (nothing that is not implemented), normalisation,
validation. Everything is refused where it enters; what a ModelConfig holds can be relied on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from ...ipc.errors import CallerError
from ...ipc.messages import GRAPH_LEVEL, BatchInput, ModelSpec, Optimization, Signature, TensorSpec, WarmupSample
from ..scheduling.policy import QueuePolicy, TimeoutAction
from ..scheduling.requests import NO_GPU
from . import schema
from .accelerators import absolute_libraries, library_paths, with_accelerators
from .agents import AgentSettings
from .fields import refuse_unsupported
from .locations import ConfigFile, locate
from .mistakes import parse
from .normalisation import fill_in, name_backend, warn_of_idle_levels
from .optimization import optimization_of
from .placement import ANYWHERE, Placing, lanes_of, place_groups, seats_of, shared_out
from .schema import Proto
from .shapes import batch_inputs, scattered, tensor_specs
from .signatures import compare, fill_in_signature
from .validation import MAX_NAME, check, max_execution_s
from .warm_up import samples_of, skipped_samples


class Resource(Struct, frozen=True):
    """What each instance of a group needs while it executes: of its own device, or of the whole system."""

    name: str
    is_global: bool
    count: int


class RateLimiter(Struct, frozen=True):
    """A group's part in the rate limiter. A name that is given twice counts as it is given last, as in Triton."""

    resources: tuple[Resource, ...] = ()
    priority: int = 0  # 0 counts as 1


class InstanceGroup(Struct, frozen=True):
    """Instances that are alike. `count`: of a KIND_GPU group on each of its GPUs, which are ordinals."""

    name: str
    count: int
    kind: str
    host_policy: str = ""
    rate_limiter: RateLimiter = RateLimiter()
    gpus: tuple[int, ...] = ()
    profiles: tuple[str, ...] = ()


class WorkerPlan(Struct, frozen=True):
    """A worker that is to be: the names of its instances (on a GPU it may have several, its lanes), and where it computes."""

    instances: tuple[str, ...]
    group: InstanceGroup
    gpu: int = NO_GPU  # ordinal, among those that the broker sees
    uuid: str = ""  # of that GPU

    @property
    def name(self) -> str:
        """That of its first instance."""
        return self.instances[0]

    @property
    def host_policy(self) -> str:
        """The name of its host policy; Triton's default is that of its device."""
        return self.group.host_policy or ("cpu" if self.gpu == NO_GPU else f"gpu_{self.gpu}")


class DynamicBatching(Struct, frozen=True):
    """The dynamic batcher's settings. Sizes are empty only for a model without a batch dimension.

    `priority_levels` 0: there is one level, and the two fields after it are 0 and empty.
    """

    preferred_batch_sizes: tuple[int, ...]
    max_queue_delay_us: int
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    priority_queue_policies: dict[int, QueuePolicy] = {}
    default_queue_policy: QueuePolicy = QueuePolicy()


class ModelConfig(Struct, frozen=True):
    """A normalised configuration. Inputs or outputs are missing only where the model file will tell (`is_complete`)."""

    name: str
    backend: str
    platform: str  # "" where Triton has no platform string for the backend
    max_batch_size: int  # 0: no batch dimension
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic_batching: DynamicBatching | None
    instance_groups: tuple[InstanceGroup, ...]
    filename: str  # of the model, within a version directory; "" for a backend without files
    labels: dict[str, str]  # output -> its file of labels, within the model's directory
    warmup: tuple[WarmupSample, ...]
    graph_level: int  # Triton's optimization.graph.level
    parameters: dict[str, str]
    metric_tags: dict[str, str]
    max_execution_s: float | None  # from `parameters`; 0: no limit
    is_batching_chosen: bool  # max_batch_size is written in the file, be it as 0
    is_cached: bool  # response_cache is enabled
    warnings: tuple[str, ...]
    proto: Proto  # the normalised protobuf; not to be changed
    batch_inputs: tuple[BatchInput, ...] = ()
    optimization: Optimization = Optimization()
    op_libraries: tuple[str, ...] = ()  # of custom operators; relative ones count from the model's directory
    uuids: dict[int, str] = {}  # of the GPUs that groups have, by ordinal
    lanes: int = 1  # instances to a worker on a GPU, at most

    @property
    def is_complete(self) -> bool:
        """Whether inputs and outputs are known."""
        return bool(self.inputs and self.outputs)

    @property
    def names_limits(self) -> bool:
        """Whether a group asks the rate limiter for anything. Then all instances take part: they compete among themselves."""
        return any(group.rate_limiter != RateLimiter() for group in self.instance_groups)

    def workers(self) -> list[WorkerPlan]:
        """All of them, in the order of the groups."""
        return [
            WorkerPlan(tuple(seat.name for seat in seats), group, seats[0].gpu, self.uuids.get(seats[0].gpu, ""))
            for group in self.instance_groups
            for seats in shared_out(seats_of(group.name, group.count, group.gpus), self.lanes)
        ]

    def worker_names(self) -> list[str]:
        """The names of all workers; without lanes, those of all instances: digits_0_0, digits_0_1."""
        return [worker.name for worker in self.workers()]

    def worker_of(self, name: str) -> WorkerPlan:
        """The worker of that name; one that was attached by hand is an instance like the first, alone."""
        workers = self.workers()
        known = next((worker for worker in workers if worker.name == name), None)
        return known or structs.replace(workers[0], instances=(name,))

    @property
    def devices(self) -> set[int]:
        """The GPUs that it has instances on, by ordinal; NO_GPU for the CPU."""
        return {gpu for group in self.instance_groups for gpu in group.gpus or (NO_GPU,)}

    def spec(self, version: int, directory: str = "") -> ModelSpec:
        """What a worker must know. `directory` is that of the version."""
        parameters = {**self.parameters, GRAPH_LEVEL: str(self.graph_level)} if self.graph_level else self.parameters
        inputs, outputs = list(self.inputs), list(self.outputs)
        return ModelSpec(
            self.name, version, self.backend, self.max_batch_size, inputs, outputs, parameters, list(self.batch_inputs),
            self.labels, self.optimization, library_paths(self.op_libraries, directory),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Triton's JSON: the schema's own names, all defaults printed, 64-bit integers as numbers."""
        return schema.as_json(self.proto)


class InvalidOverrideError(CallerError):
    """The configuration that came with a load is at fault, and not the repository's."""


OVERRIDE = "override"
"""How errors call the configuration that came with a load."""


def parse_config(
    text: str, path: Path, model_directory_name: str, *, placing: Placing = ANYWHERE, detected_backend: str = ""
) -> ModelConfig:
    """The configuration in `text`, the content of MODEL_DIRECTORY_NAME/config.pbtxt at `path`.

    `placing` says where instances may go. `detected_backend` is used where the text names neither platform nor backend.
    Raises CallerError, whose lines begin with FILE:LINE:COLUMN: INVALID_ARG for mistakes, UNSUPPORTED for what this release
    does not have.
    """
    name = f"{model_directory_name}/{path.name}"
    file = ConfigFile(name, locate(text))
    return _checked(
        parse(text, name), file, model_directory_name, placing, detected_backend, "max_batch_size" in file.locations
    )


def parse_override(text: str, model: str, *, placing: Placing = ANYWHERE, detected_backend: str = "") -> ModelConfig:
    """The configuration that came with a load: Triton's JSON, or the text of a config.pbtxt. Raises as `parse_config`."""
    try:
        if not text.lstrip().startswith("{"):
            path = Path(model) / OVERRIDE
            return _without_absolute_libraries(
                parse_config(text, path, model, placing=placing, detected_backend=detected_backend)
            )
        config, keys = schema.parse_json(text)
        file = ConfigFile(f"{model}/{OVERRIDE}", {})
        is_batching_chosen = bool({"max_batch_size", "maxBatchSize"} & keys)
        return _without_absolute_libraries(_checked(config, file, model, placing, detected_backend, is_batching_chosen))
    except CallerError as error:
        raise InvalidOverrideError(f"Invalid config override: {error.message}", error.code) from None


def _checked(
    config: Proto, file: ConfigFile, model: str, placing: Placing, detected_backend: str, is_batching_chosen: bool
) -> ModelConfig:
    warnings = warn_of_idle_levels(config, file)
    refuse_unsupported(config, file)
    _check_name(config, model, file)
    try:
        name_backend(config, detected_backend)
    except CallerError as error:
        place = file.at("backend" if config.backend else "platform")
        raise CallerError(f"{place}: {error.message}", error.code) from None
    fill_in(config)
    placed = place_groups(config, file, placing)
    check(config, file, placed.problems)
    warnings = [*placed.warnings, *warnings, *skipped_samples(config, file)]
    return _frozen(config, is_batching_chosen, tuple(warnings), placed.uuids, lanes_of(config) or placing.lanes)


def _without_absolute_libraries(config: ModelConfig) -> ModelConfig:
    """As it is. Only the owner of the repository may say that a worker is to load a library from elsewhere in the machine."""
    for name in absolute_libraries(config.proto):
        raise CallerError(
            f"op_library_filename '{name}' is absolute, which only the repository's own configuration may be; send the library "
            "with the model, or write it there"
        )
    return config


def differ_beyond_instances(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether more than the instance groups, and the choice of versions, is different."""
    if one.is_batching_chosen != other.is_batching_chosen:
        return True
    protos = [schema.copy_of(config.proto) for config in (one, other)]
    for proto in protos:
        proto.ClearField("instance_group")
        proto.ClearField("version_policy")
    return bool(protos[0] != protos[1])


def with_instances_of(config: ModelConfig, other: ModelConfig) -> ModelConfig:
    """`config`, with the instance groups and the choice of versions of another that is else the same."""
    proto = schema.copy_of(config.proto)
    for key in ("instance_group", "version_policy"):
        proto.ClearField(key)
    proto.instance_group.extend(other.proto.instance_group)
    proto.version_policy.CopyFrom(other.proto.version_policy)
    return _frozen(proto, config.is_batching_chosen, other.warnings, other.uuids, config.lanes)


def agents_of(text: str, path: Path, model_directory_name: str) -> tuple[AgentSettings, ...]:
    """The repository agents that a configuration names, in its order. Nothing else of it is looked at yet: they may replace it.

    Raises CallerError where the text is none at all.
    """
    return _agents(parse(text, f"{model_directory_name}/{path.name}"))


def agents_of_override(text: str, model: str) -> tuple[AgentSettings, ...]:
    """The same of a configuration that came with a load."""
    try:
        is_json = text.lstrip().startswith("{")
        return _agents(schema.parse_json(text)[0] if is_json else parse(text, f"{model}/{OVERRIDE}"))
    except CallerError as error:
        raise InvalidOverrideError(f"Invalid config override: {error.message}", error.code) from None


def _agents(config: Proto) -> tuple[AgentSettings, ...]:
    agents = config.model_repository_agents.agents
    return tuple(AgentSettings(agent.name, dict(agent.parameters)) for agent in agents)


def complete(config: ModelConfig, signature: Signature) -> ModelConfig:
    """What the configuration leaves out is taken from the model file, by Triton's rules. As it is if nothing is missing."""
    if config.is_complete:
        return config
    proto = schema.copy_of(config.proto)
    fill_in_signature(proto, signature, config.is_batching_chosen)
    check(proto, ConfigFile(f"{config.name}/{config.filename}", {}))
    return _frozen(proto, config.is_batching_chosen, config.warnings, config.uuids, config.lanes)


def check_against(config: ModelConfig, signature: Signature) -> None:
    """Raises CallerError where names, datatypes or dims do not agree with the model file."""
    compare(config.proto, signature)


def _check_name(config: Proto, directory: str, file: ConfigFile) -> None:
    if config.name not in ("", directory):
        raise CallerError(
            f"{file.at('name')}: unexpected directory name '{directory}' for model '{config.name}', directory name must equal "
            f'model name; write name: "{directory}", or rename the directory'
        )
    if len(directory) > MAX_NAME:
        raise CallerError(f"{file.name}: a model's name must be at most {MAX_NAME} characters long, got {len(directory)}")
    config.name = directory


def _frozen(
    config: Proto, is_batching_chosen: bool, warnings: tuple[str, ...], uuids: dict[int, str], lanes: int
) -> ModelConfig:
    return ModelConfig(
        name=config.name,
        backend=config.backend,
        platform=config.platform,
        max_batch_size=config.max_batch_size,
        inputs=tensor_specs(config.input, {}),
        outputs=tensor_specs(config.output, scattered(config)),
        batch_inputs=batch_inputs(config),
        op_libraries=tuple(config.model_operations.op_library_filename),
        dynamic_batching=_dynamic_batching(config.dynamic_batching) if config.HasField("dynamic_batching") else None,
        instance_groups=tuple(_instance_group(group) for group in config.instance_group),
        filename=config.default_model_filename,
        labels={tensor.name: tensor.label_filename for tensor in config.output if tensor.label_filename},
        warmup=samples_of(config),
        graph_level=config.optimization.graph.level,
        parameters={key: value.string_value for key, value in config.parameters.items()},
        metric_tags=dict(config.metric_tags),
        max_execution_s=max_execution_s(config),
        is_batching_chosen=is_batching_chosen,
        is_cached=config.response_cache.enable,
        warnings=warnings,
        proto=config,
        optimization=with_accelerators(optimization_of(config), config),
        uuids=uuids,
        lanes=lanes,
    )


def _instance_group(group: Proto) -> InstanceGroup:
    limiter = _rate_limiter(group.rate_limiter)
    gpus, profiles = tuple(group.gpus), tuple(group.profile)
    return InstanceGroup(group.name, group.count, schema.kind_name(group), group.host_policy, limiter, gpus, profiles)


def _rate_limiter(limiter: Proto) -> RateLimiter:
    resources = {(each.name, schema.is_global(each)): each.count for each in limiter.resources}
    return RateLimiter(
        tuple(Resource(name, everywhere, count) for (name, everywhere), count in resources.items()), limiter.priority
    )


def _dynamic_batching(batching: Any) -> DynamicBatching:
    levels: int = batching.priority_levels
    return DynamicBatching(
        preferred_batch_sizes=tuple(sorted(set(batching.preferred_batch_size))),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=levels,
        default_priority_level=batching.default_priority_level if levels else 0,
        priority_queue_policies={
            level: _queue_policy(policy) for level, policy in batching.priority_queue_policy.items() if levels
        },
        default_queue_policy=_queue_policy(batching.default_queue_policy),
    )


def _queue_policy(policy: Any) -> QueuePolicy:
    action = TimeoutAction.DELAY if policy.timeout_action == policy.DELAY else TimeoutAction.REJECT
    return QueuePolicy(policy.max_queue_size, action, policy.default_timeout_microseconds * 1000, policy.allow_timeout_override)

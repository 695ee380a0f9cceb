# SPDX-License-Identifier: Apache-2.0
"""From the broker, to a worker."""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, Struct

from .base import Message, Row

GRAPH_LEVEL = "optimization.graph.level"
"""The key of ModelSpec.parameters under which the configuration's field of this name travels."""


class TensorSpec(Struct, frozen=True, omit_defaults=True, gc=False):
    """A tensor of a model as clients see it. `dims` leaves the batch dimension out; -1 is a variable dimension.

    The rest says what the model sees instead. It has a default for the usual tensor, which is the same on both sides.
    """

    name: str
    datatype: str  # KServe: FP32, INT64, BYTES, ...
    dims: list[int]
    reshape: list[int] | None = None  # the model's own dims, of as many elements; nil: `dims`
    optional: bool = False  # an input that a request may leave out
    ragged: bool = False  # an input that the model gets as one dimension: all elements of all requests
    shaped_as: str = ""  # an output that is split by the shapes of this input, each request getting its own
    shape_tensor: bool = False  # TensorRT: its values are shapes, and it lies in host memory


class BatchInput(Struct, frozen=True, omit_defaults=True, gc=False):
    """Inputs of the model that no client sends: the worker computes them from the shapes of `source` in each execution."""

    kind: str  # Triton's BatchInput.Kind: BATCH_ELEMENT_COUNT, ...
    targets: list[str]  # the model's inputs that get the value
    datatype: str  # INT32 or FP32
    source: str  # an input


class GraphSpec(Struct, frozen=True, omit_defaults=True, gc=False):
    """A CUDA graph that the configuration asks for (Triton: ModelOptimizationPolicy.Cuda.GraphSpec)."""

    batch_size: int  # 0: a model without a batch dimension
    inputs: dict[str, list[int]] = {}  # input -> dims without the batch dimension; those that are fixed may be left out
    lower_batch_size: int = 0  # the smallest batch that the graph serves, with zeros behind it; 0: batch_size alone
    lower_inputs: dict[str, list[int]] = {}


class Accelerator(Struct, frozen=True, omit_defaults=True, gc=False):
    """An execution accelerator of the configuration: the backend's name for it, and its parameters."""

    name: str
    parameters: dict[str, str] = {}


class Optimization(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the configuration's `optimization` says to an instance on a GPU. None: the backend decides."""

    cuda_graphs: bool | None = None
    graph_specs: list[GraphSpec] = []
    preferred_batch_sizes: list[int] = []  # of the dynamic batcher: there are graphs for them, too
    busy_wait: bool = False  # Triton's busy_wait_events
    output_copy_stream: bool | None = None
    pinned_inputs: bool = True  # inputs that are staged go through pinned memory
    pinned_outputs: bool = True
    priority: Literal["default", "max", "min"] = "default"  # of the streams (cudaStreamCreateWithPriority)
    gpu_accelerators: list[Accelerator] = []
    cpu_accelerators: list[Accelerator] = []


class Gpu(Struct, frozen=True, omit_defaults=True, gc=False):
    """Where an instance of KIND_GPU computes."""

    uuid: str  # as nvidia-smi prints it: GPU-8-4-4-4-12 hexadecimal digits
    ordinal: int = 0  # among the GPUs that this worker sees (CUDA_VISIBLE_DEVICES); -1: to be found by its uuid
    lanes: int = 1  # instances in this worker: execution contexts, each with its stream
    busy_wait: Literal["auto", "always", "never"] = "auto"  # how completion is waited for
    profiles: list[str] = []  # instance_group.profile: TensorRT's optimization profiles, by index; none: profile 0


class ModelSpec(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a worker must know of a model: the part of its configuration that execution needs."""

    name: str
    version: int
    backend: str  # Triton's backend name: onnxruntime, identity, fake, ...
    max_batch_size: int
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    parameters: dict[str, str] = {}
    batch_inputs: list[BatchInput] = []
    labels: dict[str, str] = {}  # output -> file with a label per line, in the directory above that of the version
    optimization: Optimization = Optimization()
    op_libraries: list[str] = []  # absolute paths of libraries with the model's custom operators


class WarmupInput(Struct, frozen=True, omit_defaults=True, gc=False):
    """An input of a warm-up sample, for one request."""

    name: str
    datatype: str
    dims: list[int]  # without the batch dimension
    data: Literal["zero", "random", "file"]
    file: str = ""  # in the directory `warmup` beside that of the version


class WarmupSample(Struct, frozen=True, omit_defaults=True, gc=False):
    """Requests to execute together, `count` times, before the worker is Ready."""

    name: str
    batch_size: int  # requests, of one row each
    count: int
    inputs: list[WarmupInput]


class LoadModel(Message, frozen=True):
    """First message to a worker. `spec` may be incomplete (no inputs or outputs): the worker reports the model's own."""

    spec: ModelSpec
    instance: str  # e.g. digits_0_1, used in logs and errors
    directory: str  # the version directory, absolute; "" where the model has none
    filename: str = ""  # default_model_filename within it
    threads: int = 0  # intra-op threads this instance may use; 0: the backend decides
    isolate_system_regions: bool = False
    cpus: list[int] = []  # those that the worker shall run on; none: any
    numa_node: int = -1  # the node that its memory shall come from; -1: any
    gpu: Gpu | None = None  # None: the instance computes on the CPU


class Start(Message, frozen=True):
    """The completed and checked spec. The worker warms up, with `samples` where there are any, and answers Ready."""

    spec: ModelSpec
    samples: list[WarmupSample] = []


class MapRegion(Message, frozen=True):
    """Brings the descriptor of a region, or the handle of CUDA memory. `offset` is where the region begins in the object.

    With `report` the worker answers RegionMapped. An instance on a GPU pins what has a descriptor, once, here, but for what one
    request alone has: pinning and unpinning that take longer than copying it once more.
    """

    region: int
    byte_size: int
    offset: int = 0
    sealed: bool = True  # cannot shrink; False: a `system` segment, see --isolate-system-regions
    handle: bytes = b""  # cudaIpcMemHandle_t, 64 bytes: CUDA memory, which has no descriptor
    pid: int = 0  # of the process that registered the handle, which as a rule exports it; 0: not known
    report: bool = False
    single_use: bool = False  # one request's, of tensors that came inline
    fds: int = 1


class UnmapRegion(Message, frozen=True):
    """No later batch refers to this region. With `report` the worker answers RegionUnmapped once it has let go of it."""

    region: int
    report: bool = False


class InputSlice(Row, frozen=True):
    """An input of one request: bytes of a region, and the full shape (with the batch dimension where the model has one).

    An optional input that was left out has `region` -1 and an empty shape.
    """

    region: int
    offset: int
    byte_size: int
    shape: list[int]


class OutputSlice(Row, frozen=True):
    """An output wanted: `output` is its position in the spec. `region` -1: unplaced, the worker allocates a memfd."""

    output: int
    region: int
    offset: int
    byte_size: int  # capacity
    classes: int = 0  # of an unplaced output: not itself, but its best that many classes, as BYTES


class Placement(Row, frozen=True):
    """One request of a batch: its rows (1 for a model without batching), all inputs in spec order, the outputs wanted."""

    rows: int
    inputs: list[InputSlice]
    outputs: list[OutputSlice]


class Batch(Message, frozen=True):
    """Requests to execute together. `items`: each an encoded Placement (equal bytes mean an equal placement).

    The batches of one lane are executed, and answered, in the order in which they were sent; those of another lane beside them.
    """

    batch: int
    items: list[Raw]
    lane: int = 0  # below Gpu.lanes; a worker without a GPU has one


class Stop(Message, frozen=True):
    """Finish what was sent, then exit."""


ToWorker = Batch | MapRegion | UnmapRegion | LoadModel | Start | Stop

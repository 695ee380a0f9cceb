# SPDX-License-Identifier: Apache-2.0
"""A request's tensors, checked: what is refused and in which words, what is let through, and that a refusal leaves nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from scripted import ScriptedBroker, link_of

from penstock.ipc.codec import encode
from penstock.ipc.errors import CallerError, Code, MachineError
from penstock.ipc.messages import Infer, InputSlice, InputTensor, OutputPlace, OutputSlice, OutputTensor, Placement, Register
from penstock.ipc.regions import Mapping, create_memfd
from penstock.runtime import admission
from penstock.runtime.admission import admit
from penstock.runtime.requests import InferRequest
from penstock.runtime.sessions import Session

CONFIG = """
name: "m"
backend: "fake"
max_batch_size: 4
input [
  { name: "a" data_type: TYPE_FP32 dims: [ 2 ] },
  { name: "b" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "t" data_type: TYPE_STRING dims: [ 1 ] }
]
output [
  { name: "y" data_type: TYPE_FP32 dims: [ 2 ] },
  { name: "z" data_type: TYPE_INT64 dims: [ -1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
UNBATCHED = """
name: "single"
backend: "fake"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2, 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2, 3 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
A = InputTensor("a", "FP32", [2, 2], "r", 0, 16)
B = InputTensor("b", "INT64", [2, 3], "r", 512, 48)
T = InputTensor("t", "BYTES", [2, 1], "r", 1024, 33)
Y = OutputPlace("y", "r", 2048, 16)
Z = OutputPlace("z", "r", 3072, 256)
REGION_BYTES = 4096
LARGEST = 2**63 - 1
but = msgspec.structs.replace


class Desk:
    """A broker, a client with the region "r", and what they hold: nothing more than that, whenever somebody looks."""

    def __init__(self) -> None:
        self.broker = ScriptedBroker(CONFIG, UNBATCHED)
        self.broker.start()
        self.client = self.broker.client()
        self.numbers = 0

    def admit(
        self, inputs: object, outputs: object = (), parts: Sequence[bytes] = (), model: str = "m", client: Session | None = None,
    ) -> InferRequest:  # fmt: skip
        self.numbers += 1
        core = self.broker.core
        encoded = [value if isinstance(value, bytes) else encode(value) for value in (inputs, outputs)]
        message = Infer(self.numbers, model, msgspec.Raw(encoded[0]), msgspec.Raw(encoded[1]), parts=len(parts))
        return admit(core.regions, core.shared, core.models, client or self.client, message, parts, self.numbers, 0)

    def release(self, request: InferRequest) -> None:
        self.broker.core.regions.release(request.binding.regions)

    def held(self) -> tuple[int, int, int, int]:
        """Regions, requests that use them, remembered placements, open descriptors."""
        regions = list(self.broker.core.regions)
        return (
            len(regions),
            sum(region.in_flight for region in regions),
            len(self.client.bindings),
            len(os.listdir("/proc/self/fd")),
        )

    def alias(self, name: str, offset: int, byte_size: int) -> None:
        """Another name of the memory of "r"."""
        (region,) = (region for region in self.client.regions if region.name == "r")
        link_of(self.client).fds.append(os.dup(region.fd))
        self.broker.say(self.client, Register(900, name, "memfd", byte_size, offset=offset, fds=1))


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.broker.end_sessions()
    assert len(made.broker.core.regions) == 0


def refusal(desk: Desk, inputs: object, outputs: object = (), parts: Sequence[bytes] = (), **more: Any) -> CallerError:
    """The error; nothing may be held because of the request."""
    before = desk.held()
    with pytest.raises(CallerError) as refused:
        desk.admit(inputs, outputs, parts, **more)
    assert desk.held() == before
    assert desk.client.in_flight == {}
    return refused.value


INPUT_MISTAKES: dict[str, tuple[list[InputTensor], str]] = {
    "unknown": ([A, B, T, but(A, name="c")], "unexpected inference input 'c' for model 'm'; its inputs are 'a','b','t'"),
    "duplicate": ([A, B, A, T], "input 'a' already exists in request for model 'm'"),
    "missing": ([A, T], "expected 3 inputs but got 2 inputs for model 'm'. Got input(s) ['a','t'], but missing required input(s) ['b']"),
    "none": ([], "expected 3 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['a','b','t']"),
    "datatype": ([but(A, datatype="FP16"), B, T], "input 'a' data-type is 'FP16', but model 'm' expects 'FP32'"),
    "nonsense datatype": ([but(A, datatype="float"), B, T], "input 'a' data-type is 'float', but model 'm' expects 'FP32'"),
    "no shape": ([but(A, shape=[]), B, T], "input 'a' has no shape but model requires batch dimension for 'm'"),
    "rank too low": ([but(A, shape=[2]), B, T], "unexpected shape for input 'a' for model 'm'. Expected [-1,2], got [2]."),
    "rank too high": ([but(A, shape=[2, 2, 1]), B, T], "shape for input 'a' for model 'm'. Expected [-1,2], got [2,2,1]."),
    "dimension": ([but(A, shape=[2, 3]), B, T], "unexpected shape for input 'a' for model 'm'. Expected [-1,2], got [2,3]."),
    "rank of a variable one": ([A, but(B, shape=[2]), T], "shape for input 'b' for model 'm'. Expected [-1,-1], got [2]."),
    "rows differ": ([A, but(B, shape=[3, 3]), T], "input 'b' batch size does not match other inputs for 'm': 3 and 2"),
    "no rows": (
        [but(A, shape=[0, 2], byte_size=0), but(B, shape=[0, 3], byte_size=0), but(T, shape=[0, 1], byte_size=0)],
        "inference request batch-size must be <= 4 and >= 1 for 'm', got 0",
    ),
    "no rows in one": ([but(A, shape=[0, 2], byte_size=0), B, T], "input 'b' batch size does not match other inputs for 'm': 2 and 0"),
    "no rows in another": ([A, but(B, shape=[0, 3], byte_size=0), T], "input 'b' batch size does not match other inputs for 'm': 0 and 2"),
    "too many rows": (
        [but(A, shape=[5, 2], byte_size=40), but(B, shape=[5, 3], byte_size=120), but(T, shape=[5, 1])],
        "inference request batch-size must be <= 4 and >= 1 for 'm', got 5",
    ),
    "rows beyond counting": ([but(t, shape=[LARGEST, *t.shape[1:]]) for t in (A, B, T)], f"<= 4 and >= 1 for 'm', got {LARGEST}"),
    "too few bytes": ([but(A, byte_size=15), B, T], "byte size mismatch for input 'a' for model 'm'. Expected 16, got 15"),
    "too many bytes": ([but(A, byte_size=17), B, T], "byte size mismatch for input 'a' for model 'm'. Expected 16, got 17"),
    "bytes beyond counting": ([A, but(B, shape=[2, LARGEST]), T], f"input 'b' for model 'm'. Expected {16 * LARGEST}, got 48"),
    "largest size": ([A, B, but(T, byte_size=LARGEST)], f"offset 1024 + byte size {LARGEST} is {1024 + LARGEST}"),
    "offset at the end": ([but(A, offset=REGION_BYTES), B, T], "input 'a' of model 'm': Invalid offset + byte size"),
    "offset beyond the end": (
        [but(A, offset=REGION_BYTES + 1), B, T],
        "input 'a' of model 'm': Invalid offset for shared memory region: 'r' has 4096 bytes, offset is 4097",
    ),
    "end beyond the end": (
        [but(A, offset=REGION_BYTES - 15), B, T],
        "input 'a' of model 'm': Invalid offset + byte size for shared memory region: 'r' has 4096 bytes, offset 4081 + byte size 16 is 4097",
    ),
    "largest offset": ([but(A, offset=LARGEST), B, T], f"input 'a' of model 'm': Invalid offset for shared memory region: 'r' has 4096 bytes, offset is {LARGEST}"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", INPUT_MISTAKES)
def test_an_input_that_does_not_fit_its_model_is_refused_with_names_and_numbers(desk: Desk, mistake: str) -> None:
    inputs, text = INPUT_MISTAKES[mistake]
    refused = refusal(desk, inputs, [Y, Z])
    assert text in refused.message
    assert refused.code is Code.INVALID_ARG and refused.fault == "caller"


OUTPUT_MISTAKES: dict[str, tuple[list[OutputPlace], str]] = {
    "unknown": ([Y, but(Y, name="w")], "unexpected inference output 'w' for model 'm'; its outputs are 'y','z'"),
    "duplicate": ([Y, but(Y, offset=2560)], "output 'y' already exists in request for model 'm'"),
    "duplicate without a place": ([OutputPlace("z"), OutputPlace("z")], "output 'z' already exists in request for model 'm'"),
    "too small": ([but(Y, byte_size=15)], "request for output 'y' of model 'm' (15 bytes) should be at least 16 bytes to hold the results"),
    "no capacity": ([OutputPlace("y", "r", 2048)], "request for output 'y' of model 'm' (0 bytes) should be at least 16 bytes"),
    "offset beyond the end": ([but(Y, offset=4097)], "output 'y' of model 'm': Invalid offset for shared memory region: 'r' has 4096 bytes, offset is 4097"),
    "end beyond the end": ([but(Y, offset=4081)], "offset 4081 + byte size 16 is 4097"),
    "largest offset": ([but(Y, offset=LARGEST)], f"offset is {LARGEST}"),
    "largest size": ([but(Z, byte_size=LARGEST)], f"output 'z' of model 'm': Invalid offset + byte size for shared memory region: 'r' has 4096 bytes, offset 3072 + byte size {LARGEST}"),
    "same memory as an input": ([but(Y, offset=0)], "model 'm': output 'y' overlaps 'a' in memory (bytes 0 to 16 and 0 to 16)"),
    "one byte of an input": ([but(Y, offset=15)], "model 'm': output 'y' overlaps 'a' in memory (bytes 15 to 31 and 0 to 16)"),
    "last byte before an input": ([but(Y, offset=497)], "model 'm': output 'y' overlaps 'b' in memory (bytes 497 to 513 and 512 to 560)"),
    "around an input": ([but(Z, offset=500, byte_size=100)], "model 'm': output 'z' overlaps 'b' in memory (bytes 500 to 600 and 512 to 560)"),
    "within an input": ([but(Y, offset=520)], "model 'm': output 'y' overlaps 'b' in memory (bytes 520 to 536 and 512 to 560)"),
    "another output": ([Y, but(Z, offset=2063)], "model 'm': output 'z' overlaps 'y' in memory (bytes 2063 to 2319 and 2048 to 2064)"),
    "an input by another name": ([but(Y, region="again", offset=0)], "output 'y' overlaps 'a' in memory (bytes 0 to 16 and 0 to 16)"),
    "an input through a shifted window": ([but(Y, region="window", offset=0)], "output 'y' overlaps 'b' in memory (bytes 520 to 536 and 512 to 560)"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", OUTPUT_MISTAKES)
def test_an_output_place_that_will_not_do_is_refused_with_names_and_numbers(desk: Desk, mistake: str) -> None:
    desk.alias("again", 0, REGION_BYTES)
    desk.alias("window", 520, 1024)
    outputs, text = OUTPUT_MISTAKES[mistake]
    refused = refusal(desk, [A, B, T], outputs)
    assert text in refused.message
    assert refused.code is Code.INVALID_ARG and refused.fault == "caller"


@pytest.mark.parametrize(("inputs", "outputs", "who"), [
    ([but(A, region="nowhere"), B, T], [Y], "input 'a' of model 'm'"),
    ([A, B, T], [but(Y, region="nowhere")], "output 'y' of model 'm'"),
])  # fmt: skip
def test_a_region_nobody_registered_is_not_found(desk: Desk, inputs: object, outputs: object, who: str) -> None:
    refused = refusal(desk, inputs, outputs)
    assert (refused.code, refused.fault) == (Code.NOT_FOUND, "caller")
    assert refused.message == f"{who}: Unable to find shared memory region: 'nowhere'"


def test_another_sessions_region_is_not_found(desk: Desk) -> None:
    """Given a region of one session, when another one names it, then it does not exist; its owner may use it."""
    desk.broker.register(desk.client, "mine")
    other = desk.broker.client()
    mine = [but(tensor, region="mine") for tensor in (A, B, T)]
    refused = refusal(desk, mine, client=other)
    assert refused.message == "input 'a' of model 'm': Unable to find shared memory region: 'mine'"
    assert refused.code is Code.NOT_FOUND
    refused = refusal(desk, [A, B, T], [but(Y, region="mine")], client=other)
    assert refused.message == "output 'y' of model 'm': Unable to find shared memory region: 'mine'"
    desk.release(desk.admit(mine))


@pytest.mark.parametrize(("inputs", "outputs", "text"), [
    (b"\xa1x", [], "malformed inputs: Expected `array`"),
    (b"\xc1", [], "malformed inputs"),
    (b"\x91", [], "malformed inputs"),
    (b"\x91" * 5000 + b"\x00", [], "malformed inputs"),
    ([1], [], "malformed inputs: Expected `object`"),
    ([{"name": "a", "datatype": "FP32"}], [], "malformed inputs: Object missing required field `shape`"),
    ([{"name": "a", "datatype": "FP32", "shape": [1], "colour": 1}], [], "malformed inputs: Object contains unknown field `colour`"),
    ([but(A, name="x" * 257)], [], "malformed inputs: Expected `str` of length <= 256"),
    ([but(A, datatype="x" * 17)], [], "malformed inputs: Expected `str` of length <= 16"),
    ([but(A, shape=[1] * 33)], [], "malformed inputs: Expected `array` of length <= 32"),
    ([but(A, shape=[-1, 2])], [], "malformed inputs: Expected `int` >= 0"),
    ([but(A, offset=-1)], [], "malformed inputs: Expected `int` >= 0"),
    ([but(A, offset=2**63)], [], "malformed inputs: Expected `int` <= "),
    ([but(A, byte_size=2**64 - 1)], [], "malformed inputs: Expected `int` <= "),
    ([{"name": b"\xff".decode("latin-1"), "datatype": "FP32", "shape": [1], "offset": 1.5}], [], "malformed inputs: Expected `int`"),
    (b"\x91\x81\xa4name\xa2\xff\xfe", [], "malformed inputs"),
    ([A, B, T], b"\x2a", "malformed outputs: Expected `array`"),
    ([A, B, T], [{"name": "y", "byte_size": -1}], "malformed outputs: Expected `int` >= 0"),
    ([A] * 257, [], "at most 256 inputs per request, got 257"),
    ([A, B, T], [Y] * 257, "at most 256 outputs per request, got 257"),
    ([A] * 100_000, [], "at most 256 inputs per request, got 100000"),
])  # fmt: skip
def test_lists_of_tensors_that_are_none_are_refused_with_the_place(
    desk: Desk, inputs: object, outputs: object, text: str
) -> None:
    refused = refusal(desk, inputs, outputs)
    assert refused.message.startswith("model 'm': ")
    assert text in refused.message
    assert refused.code is Code.INVALID_ARG


INLINE = [but(tensor, region="", offset=0, byte_size=0) for tensor in (A, B, T)]


@pytest.mark.parametrize(("inputs", "sizes", "text"), [
    (INLINE, [16, 48], "model 'm': 3 inputs have no region (a, b, t), but 2 inline parts came"),
    (INLINE, [16, 48, 33, 1], "model 'm': 3 inputs have no region (a, b, t), but 4 inline parts came"),
    (INLINE, [], "model 'm': 3 inputs have no region (a, b, t), but 0 inline parts came"),
    ([A, B, T], [16], "model 'm': 0 inputs have no region (none), but 1 inline parts came"),
    ([A, INLINE[1], T], [47], "input byte size mismatch for input 'b' for model 'm'. Expected 48, got 47"),
    (INLINE, [48, 16, 33], "input byte size mismatch for input 'a' for model 'm'. Expected 16, got 48"),
    ([A, INLINE[1], but(T, region="nowhere")], [48], "Unable to find shared memory region: 'nowhere'"),
    ([A, INLINE[1], T], [48], "output 'w' for model 'm'"),
])  # fmt: skip
def test_inline_parts_that_do_not_match_are_refused_and_not_stored(
    desk: Desk, inputs: list[InputTensor], sizes: list[int], text: str
) -> None:
    outputs = [OutputPlace("w")] if "'w'" in text else []
    assert text in refusal(desk, inputs, outputs, [bytes(size) for size in sizes]).message


def test_a_model_without_batching_takes_its_exact_shape_only(desk: Desk) -> None:
    right = InputTensor("x", "FP32", [2, 3], "r", 0, 24)
    for shape in ([1, 2, 3], [3, 2], [2], [], [0, 3]):
        refused = refusal(desk, [but(right, shape=shape)], model="single")
        given = ",".join(map(str, shape))
        assert refused.message == f"unexpected shape for input 'x' for model 'single'. Expected [2,3], got [{given}]."
    request = desk.admit([right], model="single")
    assert request.rows == 1
    desk.release(request)


def test_a_good_request_is_a_placement_in_the_models_order_and_holds_its_region_once(desk: Desk) -> None:
    request = desk.admit([T, B, A], [Z, Y])
    (region,) = request.binding.regions
    placement = msgspec.msgpack.decode(request.binding.item, type=Placement)
    assert placement == Placement(
        2,
        [InputSlice(region.number, t.offset, t.byte_size, t.shape) for t in (A, B, T)],
        [OutputSlice(1, region.number, 3072, 256), OutputSlice(0, region.number, 2048, 16)],
    )
    assert (request.rows, request.shape_key, region.in_flight) == (2, ((2,), (3,), (1,)), 1)
    assert request.binding.reply is None, "z has a variable dimension: only execution tells its size"
    desk.release(request)
    assert region.in_flight == 0


def test_a_reply_that_can_be_foretold_is(desk: Desk) -> None:
    request = desk.admit([A, B, T], [but(Y, byte_size=100)])
    assert request.binding.reply is not None
    outputs = msgspec.msgpack.decode(request.binding.reply, type=list[OutputTensor])
    assert outputs == [OutputTensor("y", "FP32", [2, 2], "r", 2048, 16)]
    desk.release(request)


@pytest.mark.parametrize("outputs", [
    [but(Y, offset=16)], [but(Y, offset=496)], [but(Y, offset=560)], [but(Y, offset=REGION_BYTES - 16)],
    [but(Z, offset=2064), Y], [but(Y, region="elsewhere", offset=0)], [but(Z, offset=8, byte_size=0)], [],
])  # fmt: skip
def test_what_only_touches_is_no_overlap(desk: Desk, outputs: list[OutputPlace]) -> None:
    desk.broker.register(desk.client, "elsewhere")
    desk.release(desk.admit([A, B, T], outputs))


def test_inputs_may_share_their_memory(desk: Desk) -> None:
    desk.release(desk.admit([A, but(B, offset=0), but(T, offset=8)], [Y]))


def test_inline_tensors_are_stored_once_aligned_and_end_with_their_request(desk: Desk) -> None:
    before = desk.held()
    values = np.arange(4, dtype=np.float32), np.arange(6, dtype=np.int64)
    request = desk.admit([INLINE[0], T, INLINE[1]], [Y], [value.tobytes() for value in values])
    inline = next(region for region in request.binding.regions if region.kind == "inline")
    a, b, t = msgspec.msgpack.decode(request.binding.item, type=Placement).inputs
    assert (a.region, b.region) == (inline.number, inline.number) and t.region != inline.number
    assert a.offset % 64 == b.offset % 64 == 0
    with Mapping(inline.fd, inline.byte_size) as mapping:
        stored = [mapping.array[piece.offset : piece.offset + piece.byte_size].tobytes() for piece in (a, b)]
    assert stored == [value.tobytes() for value in values]
    assert len(desk.client.bindings) == 0, "a placement of inline tensors is good for one request"
    desk.broker.core.check_invariants()
    desk.release(request)
    assert desk.held() == before


def test_each_request_with_inline_tensors_has_memory_of_its_own(desk: Desk) -> None:
    parts = [bytes(16), bytes(48), bytes(33)]
    requests = [desk.admit(INLINE, [Y], parts) for _ in range(2)]
    first, second = ({region.number for region in request.binding.regions if region.kind == "inline"} for request in requests)
    assert len(first) == len(second) == 1 and first != second
    for request in requests:
        desk.release(request)


@pytest.mark.parametrize("fails", ["create", "write"])
def test_inline_tensors_for_which_there_is_no_memory_leave_nothing(
    desk: Desk, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_arguments: object) -> int:
        if fails == "create":
            raise MachineError("no memory")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = desk.held()
    monkeypatch.setattr(admission, "create_memfd" if fails == "create" else "_write", no_room)
    with pytest.raises((MachineError, OSError)):
        desk.admit(INLINE, [Y], [bytes(16), bytes(48), bytes(33)])
    assert desk.held() == before


def register(desk: Desk, message: Register, fds: Sequence[int]) -> None:
    core = desk.broker.core
    admission.register(core.regions, admission.registrant(core.shared, desk.client, message), message, fds)


@pytest.mark.parametrize(("name", "kind", "size", "offset", "fds", "key", "text"), [
    ("", "memfd", 64, 0, 1, "", "a region needs a name: got an empty one"),
    ("r", "memfd", 64, 0, 1, "", "shared memory region 'r' already registered by this session"),
    ("new", "memfd", 0, 0, 1, "", "region 'new': byte_size must be at least 1, got 0"),
    ("new", "memfd", 64, 0, 0, "", "region 'new': a memfd region brings one descriptor over the local link, got 0"),
    ("new", "memfd", 64, 0, 1, "k", "region 'new': a memfd region has no key, got 'k'"),
    ("new", "memfd", 65, 0, 1, "", "holds 64 bytes, 65 are needed"),
    ("new", "memfd", 64, 1, 1, "", "holds 64 bytes, 65 are needed"),
    ("new", "memfd", LARGEST, LARGEST, 1, "", f"holds 64 bytes, {2 * LARGEST} are needed"),
    ("new", "system", 64, 0, 1, "k", "region 'new': a system region is named by its key and brings no descriptor"),
    ("new", "system", 64, 0, 0, "", "invalid shared memory key"),
    ("new", "system", 64, 0, 0, "../passwd", "invalid shared memory key"),
    ("new", "system", 64, 0, 0, "penstock-no-such-key", "'penstock-no-such-key'"),
])  # fmt: skip
def test_a_region_that_will_not_do_is_refused_and_not_kept(
    desk: Desk, name: str, kind: Any, size: int, offset: int, fds: int, key: str, text: str
) -> None:
    before = desk.held()
    given = [create_memfd("given", 64)] if fds else []
    try:
        with pytest.raises(CallerError) as refused:
            register(desk, Register(1, name, kind, size, key, offset, fds=fds), given)
    finally:
        for fd in given:
            os.close(fd)
    assert text in refused.value.message
    assert name in refused.value.message
    assert desk.held() == before

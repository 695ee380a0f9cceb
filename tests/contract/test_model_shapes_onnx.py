# SPDX-License-Identifier: Apache-2.0
"""Real ONNX models whose tensors are not those of the requests: scalars, reshaped, left out, ragged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from worker_rig import Memory, Rig, Tensor, copies, unplaced, write_onnx

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import BatchInput, InputSlice, LoadModel, ModelSpec, Placement, TensorSpec
from penstock.workers.backends import make_backend
from penstock.workers.backends.onnxruntime_onnx import OnnxRuntime

OUT = 32768
LEFT_OUT = InputSlice(-1, 0, 0, [])


def spec_with(
    inputs: list[TensorSpec], outputs: list[TensorSpec], max_batch_size: int = 8, batch_inputs: list[BatchInput] | None = None,
    backend: str = "onnxruntime",
) -> ModelSpec:  # fmt: skip
    return ModelSpec("m", 1, backend, max_batch_size, inputs, outputs, batch_inputs=batch_inputs or [])


def fp32(*values: object) -> Tensor:
    return np.array(values, np.float32)


# --- scalars and reshape ---------------------------------------------------------------------------------------------------


def test_a_scalar_is_one_element_on_the_clients_side(tmp_path: Path) -> None:
    write_onnx(tmp_path, [helper.make_node("Add", ["x", "x"], ["y"])], {"x": ("FP32", [])}, {"y": ("FP32", [])})
    spec = spec_with([TensorSpec("x", "FP32", [1], [])], [TensorSpec("y", "FP32", [1], [])], 0)
    with Rig(spec, tmp_path) as rig:
        for value in (3.0, 4.0):  # the second time what was prepared for the first is used
            assert rig.run(Placement(1, [rig.memory.put(1, fp32(value))], [rig.memory.place(0, OUT + 1, 4)])).items == []
            assert rig.memory.get(OUT + 1, "FP32", (1,)).tolist() == [2 * value]
        done, (fd,) = rig.run_with_fds(Placement(1, [rig.memory.put(0, fp32(5.0))], [unplaced(0)]))
        assert done.items[0].outputs[0].shape == [1]
        assert os.pread(fd, 100, 0) == fp32(10.0).tobytes()
        os.close(fd)


def test_a_tensor_of_the_batch_dimension_alone_is_an_element_per_row(tmp_path: Path) -> None:
    write_onnx(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], {"x": ("FP32", ["n"])}, {"y": ("FP32", ["n"])})
    with Rig(spec_with([TensorSpec("x", "FP32", [1], [])], [TensorSpec("y", "FP32", [1], [])]), tmp_path) as rig:
        first = Placement(2, [rig.memory.put(0, fp32([1], [2]))], [rig.memory.place(0, OUT, 8)])
        second = Placement(1, [rig.memory.put(500, fp32([3]))], [rig.memory.place(0, OUT + 500, 4)])
        assert rig.run(first, second).items == []
        assert rig.memory.get(OUT, "FP32", (2, 1)).tolist() == [[-1], [-2]]
        assert rig.memory.get(OUT + 500, "FP32", (1, 1)).tolist() == [[-3]]


def test_reshaped_tensors_are_the_same_memory(tmp_path: Path) -> None:
    """The model transposes what clients give it as a list of four."""
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1])
    write_onnx(tmp_path, [node], {"x": ("FP32", ["n", 2, 2])}, {"y": ("FP32", ["n", 2, 2])})
    spec = spec_with([TensorSpec("x", "FP32", [4], [2, 2])], [TensorSpec("y", "FP32", [4], [2, 2])])
    with Rig(spec, tmp_path) as rig:
        placements = [
            Placement(1, [rig.memory.put(16 * at, fp32([1, 2, 3, at]))], [rig.memory.place(0, OUT + 16 * at, 16)])
            for at in range(3)
        ]
        for batch in (placements[:1], placements):
            done = rig.run(*batch)
            assert (done.items, copies(done)) == ([], {})
        assert rig.memory.get(OUT, "FP32", (3, 4)).tolist() == [[1, 3, 2, at] for at in range(3)]


def test_variable_dims_come_back_as_clients_know_them(tmp_path: Path) -> None:
    shape = ["n", 1, "m", 2]
    write_onnx(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], {"x": ("FP32", shape)}, {"y": ("FP32", shape)})
    spec = spec_with([TensorSpec("x", "FP32", [-1, 2], [1, -1, 2])], [TensorSpec("y", "FP32", [-1, 2], [1, -1, 2])])
    with Rig(spec, tmp_path) as rig:
        x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
        placements = [Placement(2, [rig.memory.put(at, x + at)], [rig.memory.place(0, OUT + at, 100)]) for at in (0, 200)]
        for batch in (placements[:1], placements):
            done = rig.run(*batch)
            assert [item.outputs[0].shape for item in done.items] == [[2, 3, 2]] * len(batch)
        np.testing.assert_array_equal(rig.memory.get(OUT + 200, "FP32", (2, 3, 2)), -(x + 200))


# --- optional inputs -------------------------------------------------------------------------------------------------------

OPTIONAL = spec_with(
    [TensorSpec("x", "FP32", [2]), TensorSpec("b", "FP32", [2], optional=True)], [TensorSpec("y", "FP32", [2])]
)


def write_optional(directory: Path) -> Path:
    """y = x + b, where b is [10, 20] unless it is given."""
    kind = ("FP32", ["n", 2])
    constants = {"b": fp32([10, 20])}
    return write_onnx(directory, [helper.make_node("Add", ["x", "b"], ["y"])], {"x": kind, "b": kind}, {"y": kind}, constants)


def test_what_the_model_has_a_value_for_is_in_the_signature_where_the_configuration_names_it(tmp_path: Path) -> None:
    write_optional(tmp_path)
    for inputs, found in ((OPTIONAL.inputs, ["x", "b"]), ([], ["x"])):
        backend = OnnxRuntime()
        signature = backend.load(LoadModel(spec_with(inputs, []), "m_0_0", str(tmp_path)))
        assert [tensor.name for tensor in signature.inputs] == found
        assert [tensor.optional for tensor in signature.inputs] == [name == "b" for name in found]
        backend.close()


def test_an_input_that_is_left_out_has_the_models_value_again(tmp_path: Path) -> None:
    with Rig(OPTIONAL, write_optional(tmp_path)) as rig:
        x, b = rig.memory.put(0, fp32([1, 2])), rig.memory.put(64, fp32([5, 5]))
        place = rig.memory.place(0, OUT, 8)
        for given, expected in ((b, [6, 7]), (LEFT_OUT, [11, 22]), (b, [6, 7]), (LEFT_OUT, [11, 22])):
            assert rig.run(Placement(1, [x, given], [place])).items == []
            assert rig.memory.get(OUT, "FP32", (2,)).tolist() == expected
        # And in batches, whose binding is used again and again
        others = [rig.memory.put(200, fp32([3, 4])), rig.memory.put(264, fp32([7, 7])), rig.memory.place(0, OUT + 200, 8)]
        for with_b, expected in ((True, [10, 11]), (False, [13, 24])):
            batch = [
                Placement(1, [x, b if with_b else LEFT_OUT], [place]),
                Placement(1, [others[0], others[1] if with_b else LEFT_OUT], [others[2]]),
            ]  # type: ignore[list-item]
            assert rig.run(*batch).items == []
            assert rig.memory.get(OUT + 200, "FP32", (2,)).tolist() == expected


def test_requests_that_differ_in_what_is_there_are_not_executed_together(tmp_path: Path) -> None:
    with Rig(OPTIONAL, write_optional(tmp_path)) as rig:
        x, b = rig.memory.put(0, fp32([1, 2])), rig.memory.put(64, fp32([5, 5]))
        done = rig.run(
            Placement(1, [x, b], [rig.memory.place(0, OUT, 8)]), Placement(1, [x, LEFT_OUT], [rig.memory.place(0, OUT + 64, 8)])
        )
        assert [item.code for item in done.items] == ["", "INTERNAL"]
        assert "input 'b' of model 'm' has shape None in a batch of shape [1, 2]" in done.items[1].message


def test_a_required_input_cannot_be_left_out_of_a_placement(tmp_path: Path) -> None:
    with Rig(OPTIONAL, write_optional(tmp_path)) as rig:
        done = rig.run(Placement(1, [LEFT_OUT, rig.memory.put(0, fp32([5, 5]))], [rig.memory.place(0, OUT, 8)]))
        assert "input 'x' was left out, it is not optional" in done.items[0].message


# --- ragged batches --------------------------------------------------------------------------------------------------------

RAGGED = TensorSpec("x", "FP32", [-1], ragged=True)
ENDS = BatchInput("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", ["ends"], "INT32", "x")


def write_sums(directory: Path) -> Path:
    """y[i] = the sum of x[ends[i]:ends[i + 1]]: the difference of two running sums."""
    constants = {
        "zero": fp32(0), "axis": np.array(0), "first": np.array([0]), "second": np.array([1]), "last": np.array([-1]),
        "end": np.array([2**31 - 1]), "axes": np.array([0]),
    }  # fmt: skip
    nodes = [
        helper.make_node("CumSum", ["x", "axis"], ["running"]),
        helper.make_node("Concat", ["zero", "running"], ["sums"], axis=0),
        helper.make_node("Slice", ["ends", "first", "last", "axes"], ["from"]),
        helper.make_node("Slice", ["ends", "second", "end", "axes"], ["to"]),
        helper.make_node("Gather", ["sums", "from"], ["before"]),
        helper.make_node("Gather", ["sums", "to"], ["after"]),
        helper.make_node("Sub", ["after", "before"], ["y"]),
    ]
    inputs = {"x": ("FP32", ["elements"]), "ends": ("INT32", ["requests + 1"])}
    return write_onnx(directory, nodes, inputs, {"y": ("FP32", ["requests"])}, constants)


SUMS = spec_with([RAGGED], [TensorSpec("y", "FP32", [1], [])], batch_inputs=[ENDS])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
def test_each_request_gets_the_sum_of_its_own_elements(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Requests of 3, 4 and 5 elements, in memory before, between and behind each other: execution follows the address."""
    with Rig(SUMS, write_sums(tmp_path)) as rig:
        given = [fp32([1, 2, 3]), fp32([10, 20, 30, 40]), fp32([100, 200, 300, 400, 500])]
        placements = [
            Placement(1, [rig.memory.put(1000 * order[at], x)], [rig.memory.place(0, OUT + 1000 * at, 4)])
            for at, x in enumerate(given)
        ]
        for batch in ((0, 1, 2), (1, 2), (0,), (0,)):
            for at in range(3):
                rig.memory.put(OUT + 1000 * at, fp32(0))
            done = rig.run(*(placements[at] for at in batch))
            assert (done.items, done.message) == ([], "")
            sums = [float(rig.memory.get(OUT + 1000 * at, "FP32", (1,))[0]) for at in batch]
            assert sums == [(6, 100, 1500)[at] for at in batch]
        assert copies(rig.run(*placements)) == {"gather": (3, 48), "scatter": (3, 12)}


def test_ragged_requests_that_lie_next_to_each_other_are_not_copied(tmp_path: Path) -> None:
    with Rig(SUMS, write_sums(tmp_path)) as rig:
        first = Placement(1, [rig.memory.put(0, fp32([1, 2, 3]))], [rig.memory.place(0, OUT, 4)])
        second = Placement(1, [rig.memory.put(12, fp32([4, 5]))], [rig.memory.place(0, OUT + 4, 4)])
        assert copies(rig.run(first, second)) == {}
        assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [6, 9]


def negated(directory: Path, shape: list[str]) -> Path:
    """y = -x, through x: a model that computes an element for each element, in one dimension or (as a row) in two."""
    row = {"shape": np.array([1, -1])}
    nodes = [helper.make_node("Neg", ["x"], ["negative"]), helper.make_node("Reshape", ["negative", "shape"], ["y"])]
    if len(shape) == 1:
        nodes, row = [helper.make_node("Neg", ["x"], ["y"])], {}
    return write_onnx(directory, nodes, {"x": ("FP32", ["elements"])}, {"y": ("FP32", list(shape))}, row)


SPLIT = spec_with([RAGGED], [TensorSpec("y", "FP32", [-1], shaped_as="x")])


@pytest.mark.parametrize("shape", [["elements"], ["one", "elements"]])
def test_an_output_is_split_by_the_shapes_of_its_input(tmp_path: Path, shape: list[str]) -> None:
    with Rig(SPLIT, negated(tmp_path, shape)) as rig:
        given = [fp32([1, 2, 3]), fp32([4, 5], [6, 7]), fp32([8])]
        placements = [
            Placement(len(x), [rig.memory.put(5000 - 1000 * at, x)], [rig.memory.place(0, OUT + 1000 * at, x.nbytes)])
            for at, x in enumerate(given)
        ]
        for batch in ((0, 1, 2), (0,), (0,), (1,), (2, 1)):
            for at, x in enumerate(given):
                rig.memory.put(OUT + 1000 * at, np.zeros_like(x))
            assert rig.run(*(placements[at] for at in batch)).items == []
            for at in batch:
                np.testing.assert_array_equal(rig.memory.get(OUT + 1000 * at, "FP32", given[at].shape), -given[at])


def test_ragged_requests_in_memory_that_may_shrink_are_copied_and_a_lost_one_fails_alone(tmp_path: Path) -> None:
    with Rig(SPLIT, negated(tmp_path, ["elements"]), isolate=True) as rig:
        shrinking = rig.map(Memory(2, 4096, os.memfd_create("shrinking")), sealed=False)
        given = [fp32([1, 2, 3]), fp32([4, 5])]
        slices = [rig.memory.put(0, given[0]), shrinking.put(0, given[1])]
        placements = [
            Placement(1, [slices[at]], [rig.memory.place(0, OUT + 1000 * at, x.nbytes)]) for at, x in enumerate(given)
        ]
        assert rig.run(*placements).items == []
        os.ftruncate(shrinking.fd, 0)
        kept, lost = rig.run(*placements).items
        assert (kept.code, lost.code, "region shrank" in lost.message) == ("", "INVALID_ARG", True)
        assert rig.memory.get(OUT, "FP32", (3,)).tolist() == [-1, -2, -3]
        assert rig.memory.get(OUT + 1000, "FP32", (2,)).tolist() == [-4, -5]  # of the first time


def test_a_split_output_without_a_place_says_its_shape(tmp_path: Path) -> None:
    with Rig(SPLIT, negated(tmp_path, ["elements"])) as rig:
        done, fds = rig.run_with_fds(
            Placement(2, [rig.memory.put(0, fp32([1, 2], [3, 4]))], [unplaced(0)]),
            Placement(1, [rig.memory.put(100, fp32([5, 6, 7]))], [unplaced(0)]),
        )
        assert [item.outputs[0].shape for item in done.items] == [[2, 2], [1, 3]]
        assert [np.frombuffer(os.pread(fd, 100, 0), np.float32).tolist() for fd in fds] == [[-1, -2, -3, -4], [-5, -6, -7]]
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("shape", [["elements"], ["one", "elements"]])
def test_a_split_output_of_other_elements_than_its_input_is_the_models_fault(tmp_path: Path, shape: list[str]) -> None:
    nodes = [helper.make_node("Concat", ["x", "x"], ["twice"], axis=0), helper.make_node("Reshape", ["twice", "shape"], ["y"])]
    constants = {"shape": np.array([1, -1] if len(shape) == 2 else [-1])}
    write_onnx(tmp_path, nodes, {"x": ("FP32", ["elements"])}, {"y": ("FP32", list(shape))}, constants)
    with Rig(SPLIT, tmp_path) as rig:
        done = rig.run(Placement(1, [rig.memory.put(0, fp32([1, 2, 3]))], [rig.memory.place(0, OUT, 12)]))
        assert (done.code, done.fault) == ("INTERNAL", "model")
        if len(shape) == 2:  # else onnxruntime says it in its own words
            assert done.message == "returned output 'y' as float32 [6], its configuration says FP32 [3]"


def test_ragged_integers_and_text_are_concatenated_too(tmp_path: Path) -> None:
    for datatype, given in (
        ("INT64", [np.arange(3).reshape(1, 3), np.arange(4).reshape(2, 2)]),
        ("BYTES", [np.array([[b"a", b"bc"]], object), np.array([[b"", b"d", b"e"]], object)]),
    ):
        folder = write_onnx(
            tmp_path / datatype,
            [helper.make_node("Identity", ["x"], ["y"])],
            {"x": (datatype, ["k"])},
            {"y": (datatype, ["k"])},
        )
        spec = spec_with([TensorSpec("x", datatype, [-1], ragged=True)], [TensorSpec("y", datatype, [-1], shaped_as="x")])
        with Rig(spec, folder) as rig:
            placements = [
                Placement(len(x), [rig.memory.put(1000 * at, x)], [rig.memory.place(0, OUT + 1000 * at, 100)])
                for at, x in enumerate(given)
            ]
            for batch in (placements, placements[:1]):
                assert rig.run(*batch).message == ""
            for at, x in enumerate(given):
                if datatype == "INT64":
                    found = rig.memory.get(OUT + 1000 * at, datatype, x.shape)
                else:
                    found = rig.memory.text(OUT + 1000 * at, sum(4 + len(text) for text in x.ravel()), x.shape)
                assert found.tolist() == x.tolist()


def test_a_model_without_the_target_of_a_batch_input_is_refused(tmp_path: Path) -> None:
    backend = OnnxRuntime()
    backend.load(LoadModel(SUMS, "m_0_0", str(negated(tmp_path, ["elements"]))))
    with pytest.raises(CallerError, match="model 'm' has no input 'ends'; it has x"):
        backend.warm_up(SUMS)
    backend.close()


# --- backends that echo ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["identity", "fake"])
def test_echoing_backends_take_what_models_take(backend: str) -> None:
    spec = spec_with(
        [TensorSpec("x", "FP32", [-1], ragged=True), TensorSpec("r", "FP32", [4], [2, 2]), TensorSpec("o", "FP32", [2], optional=True)],
        [TensorSpec("y", "FP32", [-1], shaped_as="x"), TensorSpec("s", "FP32", [2, 1], [2])], batch_inputs=[ENDS], backend=backend,
    )  # fmt: skip
    with Rig(spec) as rig:
        given = [fp32([1, 2, 3]), fp32([4, 5])]
        placements = [
            Placement(
                1,
                [rig.memory.put(1000 * at, x), rig.memory.put(1000 * at + 100, fp32([6, 7, 8, at])), LEFT_OUT],
                [rig.memory.place(0, OUT + 1000 * at, x.nbytes), rig.memory.place(1, OUT + 1000 * at + 100, 8)],
            )
            for at, x in enumerate(given)
        ]
        for batch in (placements, placements[:1]):
            assert rig.run(*batch).items == []
        for at, x in enumerate(given):
            np.testing.assert_array_equal(rig.memory.get(OUT + 1000 * at, "FP32", x.shape), x)
            assert rig.memory.get(OUT + 1000 * at + 100, "FP32", (2,)).tolist() == [6, 7]


@pytest.mark.parametrize(
    ("source", "output", "text"),
    [
        (TensorSpec("x", "FP32", [2], optional=True), TensorSpec("y", "FP32", [2]), "output 'y' copies input 'x', so that this cannot be optional"),
        (RAGGED, TensorSpec("y", "FP32", [-1]), "output 'y' copies input 'x' and must be split like it: batch_output"),
        (TensorSpec("x", "FP32", [2]), TensorSpec("y", "FP32", [2], shaped_as="z"), "and must be split like it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["identity", "fake"])
def test_echoing_backends_refuse_what_they_cannot_copy(backend: str, source: TensorSpec, output: TensorSpec, text: str) -> None:
    with pytest.raises(CallerError, match=text):
        make_backend(backend).warm_up(spec_with([source, TensorSpec("z", "FP32", [2])], [output], backend=backend))


def test_requests_without_rows_cannot_fail_by_row() -> None:
    spec = ModelSpec("m", 1, "fake", 8, SPLIT.inputs, SPLIT.outputs, {"mode": "failing_items"})
    backend = make_backend("fake")
    backend.load(LoadModel(spec, "m_0_0", ""))
    with pytest.raises(CallerError, match="mode 'failing_items' looks at rows, and its first input is ragged"):
        backend.warm_up(spec)

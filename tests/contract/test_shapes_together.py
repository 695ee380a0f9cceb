# SPDX-License-Identifier: Apache-2.0
"""What changes shapes, together with what reads them: warm-up samples and classification of reshaped and ragged models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from test_model_shapes_onnx import OPTIONAL, SPLIT, SUMS, fp32, negated, spec_with, write_optional, write_sums
from worker_rig import Rig, Tensor, write_onnx

from penstock.ipc.errors import ModelError
from penstock.ipc.messages import BatchDone, InputSlice, ModelSpec, OutputSlice, Placement, Start, TensorSpec
from penstock.ipc.messages import WarmupInput as Given
from penstock.ipc.messages import WarmupSample as Sample
from penstock.ipc.tensors import deserialize_bytes
from penstock.workers.warm_up import run_samples

OUT = 32768
RESHAPED = spec_with([TensorSpec("x", "FP32", [4], [2, 2])], [TensorSpec("y", "FP32", [4], [2, 2])])
TEXT = spec_with(
    [TensorSpec("x", "FP32", [3]), TensorSpec("s", "BYTES", [1])], [TensorSpec("y", "FP32", [3]), TensorSpec("t", "BYTES", [1])]
)


def write_reshaped(directory: Path) -> Path:
    """The model transposes what clients give it as a list of four."""
    kind = ("FP32", ["n", 2, 2])
    return write_onnx(directory, [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1])], {"x": kind}, {"y": kind})


def write_text(directory: Path) -> Path:
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Identity", ["s"], ["t"])]
    numbers, strings = ("FP32", ["n", 3]), ("BYTES", ["n", 1])
    return write_onnx(directory, nodes, {"x": numbers, "s": strings}, {"y": numbers, "t": strings})


# --- warm-up ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["zero", "random"])
@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize(
    ("spec", "dims"),
    [
        (RESHAPED, {"x": ("FP32", [4])}),
        (SUMS, {"x": ("FP32", [5])}),
        (SPLIT, {"x": ("FP32", [3])}),
        (OPTIONAL, {"x": ("FP32", [2])}),
        (OPTIONAL, {"x": ("FP32", [2]), "b": ("FP32", [2])}),
        (TEXT, {"x": ("FP32", [3]), "s": ("BYTES", [1])}),
    ],
)
def test_models_of_every_shape_are_warmed_up_by_samples(
    tmp_path: Path, spec: ModelSpec, dims: dict[str, tuple[str, list[int]]], requests: int, data: str
) -> None:
    sample = Sample("sample", requests, 2, [Given(name, *kind, data) for name, kind in dims.items()])
    with Rig(spec, written(spec, tmp_path)) as rig:
        run_samples(Start(spec, [sample]), rig.runner, rig.regions, str(tmp_path / "1"))
        rig.runner.check_invariants()


def test_a_sample_without_a_required_input_is_refused_by_name(tmp_path: Path) -> None:
    with Rig(OPTIONAL, written(OPTIONAL, tmp_path)) as rig:
        sample = Sample("sample", 1, 1, [Given("b", "FP32", [2], "zero")])
        with pytest.raises(ModelError, match="warmup sample 'sample': .*input 'x' was left out"):
            run_samples(Start(OPTIONAL, [sample]), rig.runner, rig.regions, str(tmp_path / "1"))


def written(spec: ModelSpec, directory: Path) -> Path:
    if spec is RESHAPED:
        return write_reshaped(directory)
    if spec is SUMS:
        return write_sums(directory)
    if spec is SPLIT:
        return negated(directory, ["elements"])
    return write_optional(directory) if spec is OPTIONAL else write_text(directory)


# --- classification --------------------------------------------------------------------------------------------------------


def classes(done: BatchDone, fds: list[int]) -> list[list[list[str]]]:
    """Of each request, its first output, which must be unplaced classes."""
    found = []
    for item, fd in zip(done.items, fds, strict=True):
        assert item.code == "", item.message
        output = item.outputs[0]
        content = os.pread(fd, output.byte_size, output.offset)
        found.append(
            [[each.decode() for each in row] for row in deserialize_bytes(content, output.shape, "y").reshape(output.shape)]
        )
        os.close(fd)
    return found


def best(count: int, output: int = 0) -> OutputSlice:
    return OutputSlice(output, -1, 0, 0, count)


def test_a_reshaped_output_is_classified_as_clients_see_it(tmp_path: Path) -> None:
    with Rig(RESHAPED, write_reshaped(tmp_path), labels={0: [b"a", b"b", b"c", b"d"]}) as rig:
        given = [rig.memory.put(100 * at, fp32([1, 9, 3, 4 + at])) for at in range(2)]
        for batch in (given[:1], given):
            found = classes(*rig.run_with_fds(*(Placement(1, [x], [best(2)]) for x in batch)))
            # the model gives [1, 3, 9, 4 + at]
            assert found == [[["9.000000:2:c", f"{4 + at}.000000:3:d"]] for at in range(len(batch))]


def test_a_split_output_is_classified_for_each_request_by_itself(tmp_path: Path) -> None:
    with Rig(SPLIT, negated(tmp_path, ["elements"])) as rig:
        x = [rig.memory.put(900, fp32([3, 1, 2])), rig.memory.put(100, fp32([5, 4], [7, 9]))]
        placements = [Placement(1, [x[0]], [best(2)]), Placement(2, [x[1]], [best(5)])]
        for order in ((0, 1), (1, 0), (0,), (1,)):
            found = classes(*rig.run_with_fds(*(placements[at] for at in order)))
            expected = [
                [["-1.000000:1", "-2.000000:2"]],
                [["-4.000000:1", "-5.000000:0"], ["-7.000000:0", "-9.000000:1"]],
            ]
            assert found == [expected[at] for at in order]


def test_classes_beside_text_and_with_unplaced_and_placed_outputs(tmp_path: Path) -> None:
    with Rig(TEXT, write_text(tmp_path)) as rig:

        def inputs(at: int, word: bytes) -> list[InputSlice]:
            texts: Tensor = np.array([[word]], object)
            return [rig.memory.put(at, fp32([at, 1, 2])), rig.memory.put(at + 64, texts)]

        placements = [
            Placement(1, inputs(0, b"long" * 20), [best(1), OutputSlice(1, -1, 0, 0)]),
            Placement(1, inputs(500, b""), [OutputSlice(1, rig.memory.number, OUT, 50), best(1)]),
            Placement(1, inputs(1000, b"x"), [rig.memory.place(0, OUT + 600, 12)]),
        ]
        done, fds = rig.run_with_fds(*placements)
        assert [item.code for item in done.items] == ["", "", ""], done.items
        first, second, third = (item.outputs for item in done.items)
        assert [(each.output, each.shape) for each in (*first, *second, *third)] == [
            (0, [1, 1]), (1, [1, 1]), (1, [1, 1]), (0, [1, 1]), (0, [1, 3]),
        ]  # fmt: skip
        texts = os.pread(fds[0], first[1].byte_size, first[1].offset)
        assert deserialize_bytes(texts, [1, 1], "t").tolist() == [[b"long" * 20]]
        assert rig.memory.text(OUT, second[0].byte_size, [1]).tolist() == [b""]
        assert deserialize_bytes(os.pread(fds[1], 100, second[1].offset)[: second[1].byte_size], [1], "y").tolist() == [
            b"-1.000000:1"
        ]
        assert rig.memory.get(OUT + 600, "FP32", (3,)).tolist() == [-1000, -1, -2]
        for fd in fds:
            os.close(fd)

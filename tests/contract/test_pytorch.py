# SPDX-License-Identifier: Apache-2.0
"""What is particular to models of torch: kinds of files, names, datatypes, what forward may take and return."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from torch_files import Prefix, Same, torch, write_exported, write_script
from worker_rig import Rig, spec_of, unplaced

from penstock.ipc.errors import CallerError, Code, ModelError
from penstock.ipc.messages import InputSlice, LoadModel, ModelSpec, Placement, TensorSpec
from penstock.workers.backends.base import Work
from penstock.workers.backends.pytorch_libtorch import LibTorch
from penstock.workers.backends.torch_forward import without_trace
from penstock.workers.backends.torch_models import load_program
from penstock.workers.backends.torch_settings import read_settings

OUT = 32768
PAIR = {"x": ("FP32", [3]), "y": ("FP32", [3])}


class Mixed(torch.nn.Module):
    """Named outputs, of which each needs another input."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"difference": x - y, "sum": x + y}


class InPairs(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x - y, x + y


class ByKey(torch.nn.Module):
    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["x"] - inputs["y"]


class Optional(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None, factor: float = 2.0) -> torch.Tensor:
        if y is not None:
            x = x - y
        return x * factor


class Normalising(torch.nn.Module):
    """Changes its input, as many do that were written for training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x[:, 0] += 1
        return x.mul_(2)


class Remembering(torch.nn.Module):
    """Answers with what it was given before."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last, self.last = self.last, x
        return last[: x.size(0)] + 0.0 if last.size(0) >= x.size(0) else x


class Collecting(torch.nn.Module):
    """The same, by a list to which it only adds."""

    def __init__(self) -> None:
        super().__init__()
        self.all = torch.jit.Attribute([], list[torch.Tensor])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.all.append(x[:])
        last = self.all[max(len(self.all) - 2, 0)]
        return last + 0.0 if last.size(0) == x.size(0) else x


class Stacking(torch.nn.Module):
    """Adds to a list of its own call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = [x]
        rows.append(x)
        return torch.stack(rows).sum(0)


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count


class NotATensor(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x, "a text"


class WithANumber(torch.nn.Module):
    def forward(self, x: torch.Tensor, count: int) -> torch.Tensor:
        return x * count


class Raising(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            raise ValueError("positive numbers are beyond me")
        return x


def order(directory: Path, spec: ModelSpec | None = None, filename: str = "", **parameters: str) -> LoadModel:
    return LoadModel(spec or ModelSpec("m", 1, "pytorch", 8, [], [], parameters), "m_0_0", str(directory), filename, threads=1)


def computed(rig: Rig, *arrays: Any, outputs: Sequence[int] = (0,), width: int = 3) -> list[Any]:
    """One request's outputs, all FP32, placed."""
    rows, at, slices = len(arrays[0]), 0, []
    for array in arrays:
        slices.append(InputSlice(-1, 0, 0, []) if array is None else rig.memory.put(at, array))
        at += 0 if array is None else array.nbytes
    places = [rig.memory.place(output, OUT + 1024 * output, rows * width * 4) for output in outputs]
    done = rig.run(Placement(rows, slices, places))
    assert [done.message, *(item.message for item in done.items)] == [""] * (1 + len(done.items)), done
    return [rig.memory.get(OUT + 1024 * output, "FP32", (rows, width)) for output in outputs]


X, Y = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 10, np.float32)
EXAMPLES = (torch.ones(2, 3), torch.zeros(2, 3))


@pytest.fixture(params=["traced", "scripted", "exported"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Writes a module with all its kinds of files in turn."""

    def write(module: Any, *examples: Any) -> Path:
        if request.param == "exported":
            return write_exported(tmp_path, module, *examples)
        return write_script(tmp_path, module, *(examples if request.param == "traced" else ()))

    return write


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (("x", "y"), ("OUTPUT__0", "OUTPUT__1")),
        (("INPUT__0", "INPUT__1"), ("d__0", "s__1")),
        (("first", "second"), ("d", "s")),
    ],
)
def test_tensors_are_told_by_every_convention(written: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    kinds = [{name: ("FP32", [3]) for name in side} for side in (inputs, outputs)]
    with Rig(spec_of("pytorch", *kinds), written(InPairs(), *EXAMPLES)) as rig:
        for _ in range(3):
            difference, total = computed(rig, X, Y, outputs=(0, 1))
            np.testing.assert_array_equal(difference, X - Y)
            np.testing.assert_array_equal(total, X + Y)


def test_names_that_say_which_is_which_may_come_in_any_order(tmp_path: Path) -> None:
    # Given forward(x, y) that returns a dictionary, and a configuration with both sides turned round
    spec = spec_of("pytorch", {"y": ("FP32", [3]), "x": ("FP32", [3])}, {"sum": ("FP32", [3]), "difference": ("FP32", [3])})
    for directory in (
        write_script(tmp_path / "script", Mixed()),
        write_exported(tmp_path / "export", Mixed(), *EXAMPLES),
    ):
        with Rig(spec, directory) as rig:
            total, difference = computed(rig, Y, X, outputs=(0, 1))
            np.testing.assert_array_equal(difference, X - Y)
            np.testing.assert_array_equal(total, X + Y)
            (alone,) = computed(rig, Y, X, outputs=(1,))
            np.testing.assert_array_equal(alone, X - Y)


def test_one_dictionary_of_tensors_is_filled_by_the_inputs_names(tmp_path: Path) -> None:
    spec = spec_of("pytorch", {"y": ("FP32", [3]), "x": ("FP32", [3])}, {"OUTPUT__0": ("FP32", [3])})
    exported = write_exported(tmp_path / "export", ByKey(), {"x": EXAMPLES[0], "y": EXAMPLES[1]})
    for directory in (write_script(tmp_path / "script", ByKey()), exported):
        with Rig(spec, directory) as rig:
            np.testing.assert_array_equal(computed(rig, Y, X)[0], X - Y)


def test_an_optional_argument_is_left_out_with_its_input(tmp_path: Path) -> None:
    spec = ModelSpec(
        "m",
        1,
        "pytorch",
        4,
        [TensorSpec("x", "FP32", [3]), TensorSpec("y", "FP32", [3], optional=True)],
        [TensorSpec("z", "FP32", [3])],
    )
    with Rig(spec, write_script(tmp_path, Optional())) as rig:
        np.testing.assert_array_equal(computed(rig, X, None)[0], X * 2)
        np.testing.assert_array_equal(computed(rig, X, Y)[0], (X - Y) * 2)


def test_an_input_is_optional_only_where_the_argument_is(tmp_path: Path) -> None:
    spec = ModelSpec(
        "m", 1, "pytorch", 4, [TensorSpec("x", "FP32", [3]), TensorSpec("y", "FP32", [3], optional=True)],
        [TensorSpec("d", "FP32", [3]), TensorSpec("s", "FP32", [3])],
    )  # fmt: skip
    backend = LibTorch()
    backend.load(order(write_script(tmp_path, InPairs()), spec))
    with pytest.raises(
        CallerError, match=r"input 'y' is optional, but argument 'y' of forward is not: write Optional\[Tensor\]"
    ):
        backend.warm_up(spec)


def test_memory_of_clients_is_never_changed_by_a_model_that_changes_its_inputs(written: Any) -> None:
    # Given a model that works in place, and variable dims, so that nothing was executed before the first request
    spec = spec_of("pytorch", {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])})
    with Rig(spec, written(Normalising(), EXAMPLES[0])) as rig:
        expected = (X + np.array([1, 0, 0], np.float32)) * 2
        for _ in range(3):
            # When it computes straight from a client's memory
            np.testing.assert_array_equal(computed(rig, X)[0], expected)
            # Then that is as it was
            np.testing.assert_array_equal(rig.memory.get(0, "FP32", (2, 3)), X)
        assert "writes to its inputs" in repr(rig.backend)


def test_inputs_are_looked_at_where_they_lie_once_a_model_is_known_to_leave_them_alone(tmp_path: Path) -> None:
    # Given a model that returns its input, executed once
    spec = spec_of("pytorch", {"x": ("FP32", [3])}, {"y": ("FP32", [3])})
    backend = LibTorch()
    backend.load(order(write_script(tmp_path, Same()), spec))
    backend.warm_up(spec)
    # When it gets memory, writable or not
    for content in (X.copy(), np.frombuffer(X.tobytes(), np.float32).reshape(2, 3)):
        (result,) = backend.execute(Work((2,), [content], (0,), [None], is_kept=False))
        # Then what comes out is that memory
        assert result is not None
        assert np.shares_memory(result, content)
    backend.close()


@pytest.mark.parametrize("kind", [Remembering, Collecting])
def test_what_a_model_keeps_is_its_own_and_not_a_client_s_memory(tmp_path: Path, kind: Any) -> None:
    # Given a model that keeps its input until the next call
    spec = spec_of("pytorch", {"x": ("FP32", [3])}, {"y": ("FP32", [3])})
    with Rig(spec, write_script(tmp_path, kind())) as rig:
        computed(rig, X)
        # When other requests use the same memory
        for number in range(1, 4):
            previous = computed(rig, X + number)[0]
            # Then it still has what it was given
            np.testing.assert_array_equal(previous, X + number - 1)


@pytest.mark.parametrize(
    ("kind", "keeps"), [(Remembering, True), (Collecting, True), (Counting, True), (Same, False), (Stacking, False)]
)
def test_only_what_may_keep_its_inputs_gets_copies_of_them(tmp_path: Path, kind: Any, keeps: bool) -> None:
    assert load_program(order(write_script(tmp_path, kind())), "cpu").keeps_inputs is keeps


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "BOOL", "INT8", "UINT16", "INT32", "INT64", "FP64"])
def test_datatypes_pass_unchanged_at_odd_addresses(tmp_path: Path, datatype: str) -> None:
    dtype = {"FP16": np.float16, "BF16": np.uint16, "BOOL": np.bool_, "FP64": np.float64}.get(datatype) or np.dtype(
        datatype.lower()
    )
    spec = spec_of("pytorch", {"x": (datatype, [3])}, {"y": (datatype, [3])})
    with Rig(spec, write_script(tmp_path, Same())) as rig:
        tensors = [(np.arange(6).reshape(2, 3) + seed).astype(dtype) for seed in range(2)]
        placements = [
            Placement(2, [rig.memory.put(1 + 101 * at, x)], [rig.memory.place(0, OUT + 1 + 101 * at, x.nbytes)])
            for at, x in enumerate(tensors)
        ]
        for batch in (placements, placements[:1], placements[:1]):
            assert rig.run(*batch).items == []
        for at, x in enumerate(tensors):
            np.testing.assert_array_equal(rig.memory.get(OUT + 1 + 101 * at, datatype, (2, 3)), x)


def test_outputs_of_unknown_shape_are_copied_out(tmp_path: Path) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])})
    with Rig(spec, write_script(tmp_path, Same())) as rig:
        done, (fd,) = rig.run_with_fds(Placement(2, [rig.memory.put(0, X)], [unplaced(0)]))
        assert done.items[0].outputs[0].shape == [2, 3]
        np.testing.assert_array_equal(np.frombuffer(os.pread(fd, X.nbytes, 0), np.float32).reshape(2, 3), X)
        os.close(fd)


# --- signatures and files --------------------------------------------------------------------------------------------------


def test_an_exported_program_tells_its_signature(tmp_path: Path) -> None:
    directory = write_exported(tmp_path, Mixed(), *EXAMPLES)
    signature = LibTorch().load(order(directory))
    assert signature is not None
    assert signature.inputs == [TensorSpec("x", "FP32", [-1, 3]), TensorSpec("y", "FP32", [-1, 3])]
    assert [(tensor.name, tensor.dims) for tensor in signature.outputs] == [("difference", [-1, 3]), ("sum", [-1, 3])]


def test_its_signature_has_the_names_that_the_configuration_has_for_them(tmp_path: Path) -> None:
    directory = write_exported(tmp_path, InPairs(), *EXAMPLES, rows=0)
    spec = spec_of("pytorch", {"b__1": ("FP32", [2, 3]), "a__0": ("FP32", [2, 3])}, {"s__1": ("FP32", [2, 3])}, 0)
    signature = LibTorch().load(order(directory, spec))
    assert signature is not None
    assert [tensor.name for tensor in signature.inputs] == ["a__0", "b__1"]
    assert [(tensor.name, tensor.dims) for tensor in signature.outputs] == [("OUTPUT__0", [2, 3]), ("s__1", [2, 3])]


def test_torchscript_tells_none_and_needs_a_configuration(tmp_path: Path) -> None:
    directory = write_script(tmp_path, InPairs())
    assert LibTorch().load(order(directory, spec_of("pytorch", PAIR, PAIR))) is None
    with pytest.raises(
        CallerError, match=r"must specify inputs and outputs: a TorchScript module keeps .* forward takes x, y$"
    ):
        LibTorch().load(order(directory))


def test_the_files_name_says_nothing_of_its_kind(tmp_path: Path) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [6])}, {"y": ("FP32", [4])})
    write_exported(tmp_path, Prefix(), torch.ones(2, 6), filename="net.pt")
    write_script(tmp_path, Prefix(), filename="net.pt2")
    assert LibTorch().load(order(tmp_path, spec, "net.pt")) is not None
    assert LibTorch().load(order(tmp_path, spec, "net.pt2")) is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'net\.pt' is missing in") as caught:
        LibTorch().load(order(tmp_path, filename="net.pt"))
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("content", [b"", b"not a model", os.urandom(300)])
def test_what_is_no_archive_is_named_with_what_to_write_instead(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"'model.pt' cannot be loaded: it is no archive of torch .*torch\.export\.save"):
        LibTorch().load(order(tmp_path))


def test_a_pickle_is_refused_with_what_to_write_instead(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        ModelError, match=r"'model.pt' is a pickled module or state_dict.* write it with torch\.jit\.save"
    ) as caught:
        LibTorch().load(order(tmp_path))
    assert caught.value.code is Code.UNSUPPORTED


def test_a_truncated_archive_is_named_with_the_reason(tmp_path: Path) -> None:
    write_script(tmp_path, Prefix())
    content = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"'model.pt' cannot be loaded: .{10}"):
        LibTorch().load(order(tmp_path))


def test_a_library_of_custom_operators_is_named_when_it_is_missing_or_none(tmp_path: Path) -> None:
    write_script(tmp_path, Prefix())
    (tmp_path / "lib.so").write_text("no library")
    for name, text in (("absent.so", r"absent\.so' is missing"), ("lib.so", r"lib\.so' cannot be loaded: .{10}")):
        spec = replace(spec_of("pytorch", PAIR, PAIR), op_libraries=[str(tmp_path / name)])
        with pytest.raises(ModelError, match=rf"model 'm': library of custom operators '.*/{text}"):
            LibTorch().load(order(tmp_path, spec))


def test_an_argument_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="argument 'count' of its forward is a int; only tensors"):
        LibTorch().load(order(write_script(tmp_path, WithANumber())))


def test_text_is_refused_on_either_side(tmp_path: Path) -> None:
    spec = spec_of("pytorch", {"x": ("BYTES", [3])}, {"y": ("FP32", [3])})
    backend = LibTorch()
    backend.load(order(write_script(tmp_path, Same()), spec))
    with pytest.raises(ModelError, match="tensor 'x' is BYTES, which no tensor of torch holds"):
        backend.warm_up(spec)


# --- what forward returns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "outputs", "text"),
    [
        (NotATensor(), {"a__0": "FP32", "b__1": "FP32"}, "returned output 'b__1' as a str, not as a tensor"),
        (Same(), {"y": "FP64"}, "returned output 'y' as torch.strided tensor of FP32, its configuration says FP64"),
        (Same(), {"y": "FP32", "z": "FP32"}, "the configuration has 2 outputs (y, z), the model has 1"),
        (Same(), {"OUTPUT__1": "FP32"}, "output 'OUTPUT__1' asks for number 1, the model has 1, from 0"),
        (Prefix(), {"y": "FP32"}, ""),
    ],
)
def test_what_was_not_promised_is_the_models_fault(tmp_path: Path, module: Any, outputs: dict[str, str], text: str) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [6])}, {name: (datatype, [6]) for name, datatype in outputs.items()})
    backend = LibTorch()
    backend.load(order(write_script(tmp_path, module), spec))
    if not text:  # shapes are looked at by the worker, for all backends
        backend.warm_up(spec)
        return
    with pytest.raises(ModelError) as caught:
        backend.warm_up(spec)
    assert text in caught.value.message


def test_what_forward_raises_fails_its_batch_and_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [3])}, {"y": ("FP32", [3])})
    with Rig(spec, write_script(tmp_path, Raising())) as rig:
        done = rig.run(Placement(2, [rig.memory.put(0, X)], [rig.memory.place(0, OUT, X.nbytes)]))
        assert (done.code, done.fault) == ("INTERNAL", "model")
        assert done.message == "ValueError: positive numbers are beyond me"
        np.testing.assert_array_equal(computed(rig, -X)[0], -X)
    assert "Traceback of TorchScript" in capfd.readouterr().err, "where it was raised is told to who runs the broker"


def test_of_a_traced_model_s_error_the_reason_alone_is_told(tmp_path: Path) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])})
    with Rig(spec, write_script(tmp_path, torch.nn.Linear(4, 4), torch.ones(2, 4))) as rig:
        done = rig.run(Placement(2, [rig.memory.put(0, X)], [rig.memory.place(0, OUT, X.nbytes)]))
        assert done.message == "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x4)"


def test_errors_without_a_trace_are_told_as_they_are() -> None:
    for said in ("", "plain", "RuntimeError: not torch's", "several\nlines: of text"):
        assert without_trace(said) == said


# --- parameters ------------------------------------------------------------------------------------------------------------


def test_parameters_are_tritons() -> None:
    assert read_settings({}).inference_mode
    assert read_settings({}).optimized_execution
    settings = read_settings({
        "INFERENCE_MODE": "false", "DISABLE_OPTIMIZED_EXECUTION": "true", "ENABLE_JIT_PROFILING": "0", "ENABLE_WEIGHT_SHARING": "true",
        "INTRA_OP_THREAD_COUNT": "3",
    })  # fmt: skip
    assert (settings.inference_mode, settings.optimized_execution, settings.jit_profiling) == (False, False, False)
    assert (settings.jit_executor, settings.intra_op_threads) == (None, 3)
    with pytest.raises(CallerError, match="parameter 'INFERENCE_MODE' must be true or false, got 'perhaps'"):
        read_settings({"INFERENCE_MODE": "perhaps"})
    with pytest.raises(
        CallerError, match="parameter 'INTRA_OP_THREAD_COUNT' must be a whole number that is not negative, got 'many'"
    ):
        read_settings({"INTRA_OP_THREAD_COUNT": "many"})


def test_an_instance_computes_with_the_threads_that_it_may_use(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        spec = spec_of("pytorch", {"x": ("FP32", [6])}, {"y": ("FP32", [4])})
        LibTorch().load(LoadModel(spec, "m_0_0", str(write_script(tmp_path, Prefix())), threads=2))
        assert torch.get_num_threads() == 2
        spec = spec_of("pytorch", {"x": ("FP32", [6])}, {"y": ("FP32", [4])}, INTRA_OP_THREAD_COUNT="1")
        LibTorch().load(LoadModel(spec, "m_0_0", str(tmp_path), threads=2))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_inference_mode_weights_still_need_no_gradients(tmp_path: Path) -> None:
    spec = spec_of("pytorch", {"x": ("FP32", [3])}, {"y": ("FP32", [3])}, INFERENCE_MODE="false")
    module = torch.nn.Linear(3, 3)
    with Rig(spec, write_script(tmp_path, module)) as rig:
        with torch.no_grad():
            expected = module(torch.from_numpy(X)).numpy()
        np.testing.assert_allclose(computed(rig, X)[0], expected, rtol=1e-5)

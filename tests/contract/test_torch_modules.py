# SPDX-License-Identifier: Apache-2.0
"""Torch modules as sources: what each kind of module becomes in each format, and the errors that say why not."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.clients.convert.correctness import compare
from penstock.clients.convert.onnx_runs import OnnxRun
from penstock.clients.convert.samples import random_samples
from penstock.clients.convert.signatures import outputs_of, parse_tensor
from penstock.clients.convert.tolerances import Precision, Tolerances
from penstock.ipc.errors import CallerError, ModelError

torch: Any = pytest.importorskip("torch", reason="torch is not installed: pip install 'penstock[torch]'")

from penstock.clients.convert import torch_modules  # noqa: E402 - it needs torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of TorchScript
BATCH = 4
FORMS = ("ts-trace", "ts-script", "torch-export", "onnx")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.dense = torch.nn.Linear(4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.dense(torch.relu(self.convolution(image)).mean((2, 3)))


class Several(torch.nn.Module):
    """Whole numbers and fractions in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(128, 6)

    def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.table(tokens) * scale.unsqueeze(1)
        return {"features": found, "best": found.sum(2).argmax(1)}


class Branching(torch.nn.Module):
    """What it does depends on values: only ts-script keeps that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 100.0):
            return x * 2.0
        return x - 1.0


def source(kind: Callable[[], Any], *inputs: str, outputs: tuple[str, ...] = (), device: str | None = None) -> Any:
    torch.manual_seed(1)
    module = torch_modules.TorchModule(kind(), tuple(map(parse_tensor, inputs)), outputs, device)
    module.prepare()
    module.check_invariants()
    return module


def written(module: Any, form: str, precision: Precision, folder: Path, example: Any, names: list[str]) -> Callable[[Any], Any]:
    """Writes it and returns how it is run."""
    path = folder / {"onnx": "model.onnx", "torch-export": "model.pt2"}.get(form, "model.pt")
    if form == "onnx":
        module.write_onnx(path, example, precision, 17, names, BATCH)
        return OnnxRun(path).open().answer
    if form == "torch-export":
        module.write_exported(path, example, precision, BATCH)
    elif form == "ts-script":
        module.write_scripted(path, example, precision)
    else:
        module.write_traced(path, example, precision)
    return module.run_file(path, names)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kind", "inputs"),
    [(Plain, ("image:FP32:3,8,8",)), (Several, ("tokens:INT64:7", "scale:FP32:6"))],
    ids=["plain", "several"],
)
def test_every_format_answers_as_the_module(
    kind: Callable[[], Any], inputs: tuple[str, ...], form: str, precision: Precision, tmp_path: Path
) -> None:
    # Given a module and what it says
    module = source(kind, *inputs)
    samples = random_samples(module.inputs, BATCH, {}, 0)
    answers = [module.answer(request) for request in samples.requests]
    outputs = outputs_of(module.inputs, answers, samples.rows)
    # When it is converted
    run = written(module, form, precision, tmp_path, samples.example, [tensor.name for tensor in outputs])
    found = [run(request) for request in samples.requests]
    # Then it says the same, at every batch size, and in the same types
    comparisons = compare(outputs, answers, found, Tolerances({}, {}), precision)
    assert all(each.is_right for each in comparisons if each.output != "best" or precision == "fp32"), comparisons
    assert [{name: array.dtype for name, array in each.items()} for each in found] == [
        {name: array.dtype for name, array in each.items()} for each in answers
    ]
    # And half precision is what it computes in
    assert (max(each.max_abs_error for each in comparisons) > 1e-6) == (precision == "fp16")


def test_names_of_a_dictionary_are_the_outputs_names_unless_others_are_said() -> None:
    inputs = ("tokens:INT64:7", "scale:FP32:6")
    request = random_samples(tuple(map(parse_tensor, inputs)), 2, {}, 0).requests[0]
    assert list(source(Several, *inputs).answer(request)) == ["features", "best"]
    assert list(source(Several, *inputs, outputs=("a", "b")).answer(request)) == ["a", "b"]
    with pytest.raises(CallerError, match="the module has 2 outputs, 1 are named"):
        source(Several, *inputs, outputs=("a",)).answer(request)


def test_scripting_keeps_what_depends_on_values_and_tracing_does_not(tmp_path: Path) -> None:
    module = source(Branching, "x:FP32:2")
    small, large = {"x": np.ones((2, 2), np.float32)}, {"x": np.full((2, 2), 99, np.float32)}
    traced = written(module, "ts-trace", "fp32", tmp_path, small, ["y"])(large)
    scripted = written(module, "ts-script", "fp32", tmp_path, small, ["y"])(large)
    assert (scripted["y"] == 198).all()
    assert (traced["y"] == 98).all()
    # It is the module itself, whose forward has the names that its author gave
    (_, argument) = torch.jit.load(str(tmp_path / "model.pt")).forward.schema.arguments
    assert argument.name == "x"
    # And branches are kept where it converts at its edges, too
    halved = written(module, "ts-script", "fp16", tmp_path, small, ["y"])
    assert (halved(large)["y"] == 198).all()
    assert (halved(small)["y"] == 0).all()


def test_what_tracing_takes_for_constant_is_told(tmp_path: Path) -> None:
    example = {"x": np.ones((2, 2), np.float32)}
    told = source(Branching, "x:FP32:2").write_traced(tmp_path / "model.pt", example, "fp32")
    assert len(told) == 1
    assert told[0].startswith("Converting a tensor to a Python boolean might cause the trace to be incorrect")
    assert source(Plain, "x:FP32:3,8,8").write_traced(tmp_path / "m.pt", {"x": np.ones((2, 3, 8, 8), np.float32)}, "fp32") == []


def test_variable_dims_stay_variable(tmp_path: Path) -> None:
    module = source(Several, "tokens:INT64:-1", "scale:FP32:6")
    samples = random_samples(module.inputs, BATCH, {"tokens": [(5,)]}, 0)
    other = random_samples(module.inputs, BATCH, {"tokens": [(9,)]}, 1).requests[0]
    for form in FORMS:
        folder = tmp_path / form
        folder.mkdir()
        run = written(module, form, "fp32", folder, samples.example, ["features", "best"])
        assert run(other)["features"].shape == (1, 9, 6), form


def test_an_input_in_half_precision_is_taken_as_it_is(tmp_path: Path) -> None:
    module = source(Plain, "image:FP16:3,8,8")
    samples = random_samples(module.inputs, BATCH, {}, 0)
    assert samples.example["image"].dtype == np.float16
    run = written(module, "ts-trace", "fp16", tmp_path, samples.example, ["OUTPUT__0"])
    assert run(samples.example)["OUTPUT__0"].dtype == np.float32, "as the source has it"


def test_a_checkpoint_that_does_not_fit_names_its_keys(tmp_path: Path) -> None:
    module = source(Plain, "image:FP32:3,8,8")
    state = dict(module.module.state_dict())
    # Given one without a weight, with one too many, and one of another shape
    wrong = {"extra.weight": torch.zeros(1), **state, "dense.bias": torch.zeros(7)}
    del wrong["dense.weight"]
    torch.save(wrong, tmp_path / "wrong.pth")
    # Then all three are named
    with pytest.raises(CallerError, match=r"missing: dense.weight; unexpected: extra.weight; of another shape: dense.bias"):
        module.load_checkpoint(tmp_path / "wrong.pth")
    # And one that fits is loaded, be it within a training state and from a DataParallel
    doubled = {f"module.{key}": value * 2 for key, value in state.items()}
    torch.save({"state_dict": doubled, "epoch": 3}, tmp_path / "right.pth")
    before = module.module.dense.bias.clone()
    module.load_checkpoint(tmp_path / "right.pth")
    assert torch.equal(module.module.dense.bias, before * 2)
    (tmp_path / "none.pth").write_bytes(b"nothing")
    with pytest.raises(CallerError, match="cannot be read as a file that torch.save has written"):
        module.load_checkpoint(tmp_path / "none.pth")
    torch.save({"state_dict": state, "args": Namespace(lr=0.1)}, tmp_path / "more.pth")
    with pytest.raises(CallerError, match=r"more than weights \(argparse.Namespace\).*let the function take `checkpoint`"):
        module.load_checkpoint(tmp_path / "more.pth")


def test_a_module_of_torchscript_is_a_source_like_another(tmp_path: Path) -> None:
    module = source(lambda: torch.jit.script(Plain()), "image:FP32:3,8,8")
    example = {"image": np.random.default_rng(0).random((2, 3, 8, 8), np.float32)}
    for form in ("ts-trace", "ts-script", "onnx"):
        run = written(module, form, "fp32", tmp_path, example, ["OUTPUT__0"])
        np.testing.assert_allclose(run(example)["OUTPUT__0"], module.answer(example)["OUTPUT__0"], rtol=1e-4, atol=1e-6)


class Encoding(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_layers_that_torch_has_as_one_operator_can_be_onnx(tmp_path: Path) -> None:
    # Given a transformer's layer in eval mode, which torch computes at once
    module = source(Encoding, "x:FP32:5,8")
    example = {"x": np.random.default_rng(0).random((2, 5, 8), np.float32)}
    # When it is exported
    run = written(module, "onnx", "fp32", tmp_path, example, ["OUTPUT__0"])
    # Then it answers, for other batches as well, and torch is as it was
    for shape in ((2, 5, 8), (3, 5, 8)):
        request = {"x": np.random.default_rng(1).random(shape, np.float32)}
        np.testing.assert_allclose(run(request)["OUTPUT__0"], module.answer(request)["OUTPUT__0"], rtol=1e-3, atol=1e-4)
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_exported_program_says_which_dims_of_its_outputs_are_variable(tmp_path: Path) -> None:
    module = source(Several, "tokens:INT64:-1", "scale:FP32:6")
    example = {"tokens": np.ones((2, 7), np.int64), "scale": np.ones((2, 6), np.float32)}
    assert module.write_exported(tmp_path / "model.pt2", example, "fp32", BATCH) == [(-1, -1, 6), (-1,)]
    with pytest.raises(CallerError, match="--max-batch-size 1: torch.export takes a batch of one for constant"):
        module.write_exported(tmp_path / "model.pt2", example, "fp32", 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_costs_no_more_than_the_conversion(form: str) -> None:
    module = source(Plain, "image:FP32:3,8,8")
    example = {"image": np.ones((2, 3, 8, 8), np.float32)}
    writers = {
        "ts-trace": module.write_traced, "ts-script": module.write_scripted,
        "torch-export": partial(module.write_exported, max_batch_size=BATCH),
        "onnx": partial(module.write_onnx, opset=17, names=["y"], max_batch_size=BATCH),
    }  # fmt: skip
    with pytest.raises(OSError, match="No space left on device"):
        writers[form](Path("/dev/full"), example, "fp32")


class Spectrum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x).real


class OneBatch(torch.nn.Module):
    """Its batch is written into it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 6) if x.shape[0] == 2 else x


class Endless(torch.nn.Module):
    """A generator is no TorchScript."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(x for _ in iter(lambda: 0, 0))


@pytest.mark.parametrize(
    ("kind", "form", "said"),
    [
        (OneBatch, "torch-export", r"torch-export: .*a dynamic batch is not possible"),
        (Endless, "ts-script", r"ts-script: \w+: (.|\n)*another format may be able to"),
    ],
)
def test_what_a_format_cannot_hold_is_said(kind: Callable[[], Any], form: str, said: str, tmp_path: Path) -> None:
    module = source(kind, "x:FP32:6")
    example = {"x": np.ones((2, 6), np.float32)}
    if kind is Endless:
        module.answer = lambda _arrays: {"y": example["x"]}
    with pytest.raises(ModelError, match=said):
        written(module, form, "fp32", tmp_path, example, ["y"])


def test_where_onnxscript_is_installed_the_newer_exporter_is_tried(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    module = source(Spectrum, "x:FP32:6")
    samples = random_samples(module.inputs, BATCH, {}, 0)
    module.write_onnx(tmp_path / "model.onnx", samples.example, "fp32", 18, ["y"], BATCH)
    run = OnnxRun(tmp_path / "model.onnx").open()
    for request in samples.requests:
        assert np.allclose(run.answer(request)["y"], module.answer(request)["OUTPUT__0"], atol=1e-5)


def test_without_it_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_modules, "find_spec", lambda _name: None)
    module = source(Spectrum, "x:FP32:6")
    with pytest.raises(ModelError, match=r"aten::fft_fft.*which needs onnxscript \(pip install onnxscript\)"):
        module.write_onnx(tmp_path / "model.onnx", {"x": np.ones((2, 6), np.float32)}, "fp32", 17, ["y"], BATCH)


@pytest.mark.parametrize("opset", [21, 99])
def test_an_opset_that_the_exporter_does_not_have_is_refused(opset: int, tmp_path: Path) -> None:
    module = source(Plain, "image:FP32:3,8,8")
    example = random_samples(module.inputs, BATCH, {}, 0).example
    with pytest.raises(CallerError, match=r"--opset"):
        module.write_onnx(tmp_path / "model.onnx", example, "fp32", opset, ["y"], BATCH)


def test_a_module_that_raises_is_quoted_with_the_shapes_that_it_got() -> None:
    module = source(Plain, "image:FP32:2,8,8")
    with pytest.raises(ModelError, match=r"the module raised RuntimeError for inputs \(1, 2, 8, 8\) float32: "):
        module.answer({"image": np.ones((1, 2, 8, 8), np.float32)})


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(CallerError, match="must return a torch.nn.Module, got a int"):
        torch_modules.TorchModule(3, (), (), None)
    with pytest.raises(CallerError, match="--device nowhere"):
        source(Plain, "image:FP32:3,8,8", device="nowhere")


def test_example_inputs_say_what_the_inputs_are() -> None:
    tokens, scale = torch.zeros(2, 7, dtype=torch.int64), torch.zeros(2, 6)
    of = torch_modules.inputs_of
    expected = (parse_tensor("tokens:INT64:7"), parse_tensor("scale:FP32:6"))
    # By name they are put in the order of forward's parameters; others are numbered, or named
    assert of({"scale": scale, "tokens": tokens}, (), ["tokens", "scale"], 1) == expected
    assert of([tokens, scale], ("tokens", "scale"), [], 1) == expected
    assert of(scale, (), [], 0) == (parse_tensor("INPUT__0:FP32:2,6"),)
    with pytest.raises(CallerError, match="2 example inputs and 1 names"):
        of([tokens, scale], ("tokens",), [], 1)
    with pytest.raises(CallerError, match="'INPUT__0' is a int"):
        of([3], (), [], 1)
    with pytest.raises(CallerError, match="no batch dimension; say --max-batch-size 0"):
        of(torch.tensor(1.0), (), [], 1)

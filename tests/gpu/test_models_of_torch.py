# SPDX-License-Identifier: Apache-2.0
"""Models of torch on a real GPU: TorchScript and exported programs, from every kind of memory, with and without CUDA graphs."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchanging import KINDS
from gpu_models import add_model, asked
from torch_files import torch, write_exported, write_script

from running import RunningBroker  # isort: skip - gpu_models tells where it is

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch {torch.__version__} finds no GPU"),
]
WIDTH = 512
GRAPHS = "optimization { cuda { graphs: true } }"


class Net(torch.nn.Module):
    """A few kernels, and a constant that is made while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.second = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x))) + torch.arange(x.size(1), device=x.device, dtype=x.dtype)


class InPlace(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


class Synchronising(torch.nn.Module):
    """Looks at a value on the host, which nothing that is captured can."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > -1e30):
            return x * 3
        return x


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture(params=["scripted", "exported"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write(kind: str, folder: Path, module: Any) -> None:
    if kind == "scripted":
        write_script(folder, module)
    else:
        write_exported(folder, module, torch.ones(2, WIDTH))


def rows(count: int) -> Any:
    return np.random.default_rng(count).random((count, WIDTH), np.float32)


def test_it_computes_what_torch_computes_on_the_cpu(tmp_path: Path, repository: Path, kind: str) -> None:
    # Given a module as a model, with CUDA graphs and without; each worker imports torch, so there are not more of them than that
    module, entries = Net(), {"plain": "", "graphs": GRAPHS}
    for model, rest in entries.items():
        write(kind, add_model(repository, "pytorch", WIDTH, rest, model=model), module)
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        for each in client.index():
            assert each["state"] == "READY", f"{each}\n{broker.log()}"
        for model, memory, count in itertools.product(entries, KINDS, (1, 5, 8, 5, 3)):  # of 5 there is no graph
            x = rows(count)
            with torch.inference_mode():
                expected = module(torch.from_numpy(x)).numpy()
            found = asked(client, memory, x, model=model)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2, err_msg=f"{model}, {memory}, {count} rows")
        assert "no CUDA graphs" not in broker.log()


def test_a_model_that_changes_its_inputs_leaves_a_client_s_memory_alone(tmp_path: Path, repository: Path) -> None:
    write_script(add_model(repository, "pytorch", -1), InPlace())  # variable dims: nothing runs before the first request
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        for memory, count in itertools.product(("cuda", "memfd", "system"), (2, 2, 8)):  # the first is one that could be bound
            np.testing.assert_array_equal(asked(client, memory, rows(count)), rows(count) * 2)


def test_what_cannot_be_captured_is_executed_plainly(tmp_path: Path, repository: Path) -> None:
    write_script(add_model(repository, "pytorch", WIDTH, GRAPHS), Synchronising())
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        for count in (1, 2, 8, 1):
            np.testing.assert_array_equal(asked(client, "memfd", rows(count)), rows(count) * 3)
        assert broker.log().count("no CUDA graphs, batches are executed plainly") == 1


def test_outputs_of_variable_shape_come_from_torchs_own_memory(tmp_path: Path, repository: Path) -> None:
    write_script(add_model(repository, "pytorch", -1), torch.nn.ReLU())
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        for count in (1, 8, 3):
            result = client.infer("net", {"INPUT__0": rows(count) - 0.5}, timeout_s=60.0)
            np.testing.assert_array_equal(result.outputs["OUTPUT__0"], np.maximum(rows(count) - 0.5, 0))


# --- torch in the worker's memory ------------------------------------------------------------------------------------------


@pytest.fixture
def gpu() -> Iterator[Any]:
    from penstock.workers.backends.torch_gpu import TorchGpu

    made = TorchGpu(0)
    yield made
    torch.cuda.synchronize()
    torch.cuda.set_stream(torch.cuda.default_stream())
    made.clean()


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "UINT16", "INT64", "FP16", "BF16", "FP32", "FP64"])
def test_device_memory_is_a_tensor_without_a_copy(gpu: Any, datatype: str) -> None:
    from penstock.ipc.tensors import ITEM_BYTES
    from penstock.workers.backends.on_device import DeviceTensor
    from penstock.workers.backends.torch_models import DTYPES

    memory = torch.zeros(1 << 12, dtype=torch.uint8, device="cuda")
    tensor = DeviceTensor(memory.data_ptr() + 256, datatype, (2, 3), 6 * ITEM_BYTES[datatype])
    view = gpu.view(tensor)
    assert (view.data_ptr(), view.dtype, tuple(view.shape)) == (tensor.address, DTYPES[datatype], (2, 3))
    assert view.device == memory.device
    view.fill_(1)
    torch.cuda.synchronize()
    assert memory[:256].sum() == memory[256 + tensor.byte_size :].sum() == 0
    assert memory[256 : 256 + tensor.byte_size].any()
    assert gpu.view(tensor) is view
    assert tuple(gpu.view(DeviceTensor(0, datatype, (0, 3), 0)).shape) == (0, 3)


def test_torch_computes_in_the_stream_that_it_is_given(gpu: Any) -> None:
    from penstock.workers.devices.cuda import Device, Stream

    with Device(0, blocking=True) as device, Stream(device) as stream:
        gpu.use(stream)
        assert torch.cuda.current_stream().cuda_stream == stream.address
        x = torch.full((1 << 20,), 2.0, device="cuda")
        for _ in range(50):
            x = x * 1.0
        stream.synchronize()  # of this stream alone
        host = np.empty(1 << 20, np.float32)
        assert stream.is_idle()
        ctypes.memmove(host.ctypes.data, x.cpu().numpy().ctypes.data, host.nbytes)
        assert (host == 2).all()
        torch.cuda.set_stream(torch.cuda.default_stream())
        gpu.clean()

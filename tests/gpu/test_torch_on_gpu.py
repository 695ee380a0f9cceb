# SPDX-License-Identifier: Apache-2.0
"""torch on a GPU: its tensors as a client's memory, and its models served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_machine import GpuMachine, add_gpu_model

from penstock.clients import CudaRegion
from penstock.clients.slots import PlacedRequest

pytestmark = pytest.mark.gpu
WIDTH = 1024


@pytest.fixture(scope="module")
def torch() -> Any:
    """torch with CUDA."""
    module = pytest.importorskip("torch", reason="torch is not installed")
    if not module.cuda.is_available():
        pytest.skip(f"torch {module.__version__} finds no GPU")
    module.zeros(1, device="cuda")  # the context, and what the driver opens for it, before the leak check begins
    return module


@pytest.fixture
def machine(tmp_path: Path) -> GpuMachine:
    """The real one."""
    return GpuMachine(tmp_path, None)


def test_torch_sees_a_cuda_region_as_its_own_tensor_in_and_out(machine: GpuMachine, repository: Path, torch: Any) -> None:
    add_gpu_model(repository, "echo", width=WIDTH)
    with machine.serving(repository) as broker, broker.client("local") as client:
        region = CudaRegion.allocate("tensors", 2 * 4 * 4 * WIDTH)
        client.register(region)
        # Given a tensor on the region's memory, written by a kernel
        x = torch.from_dlpack(region.view("FP32", (4, WIDTH)))
        y = torch.from_dlpack(region.view("FP32", (4, WIDTH), 4 * 4 * WIDTH))
        x.copy_(torch.rand(4, WIDTH, device="cuda"))
        y.fill_(-1)
        torch.cuda.synchronize()
        # When it is sent, then what comes back is in the other tensor, and nothing was copied to the host
        tensors = [region.tensor("FP32", (4, WIDTH), offset) for offset in (0, 4 * 4 * WIDTH)]
        client.infer(PlacedRequest("echo", -1, {"INPUT__0": tensors[0]}, {"OUTPUT__0": tensors[1]}))
        assert torch.equal(x, y)
        client.unregister("tensors")
        del x, y
        region.close()


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_torchscript_model_is_served_from_the_gpu(machine: GpuMachine, repository: Path, torch: Any, lanes: int) -> None:
    # Given a traced module, as one instance or as two lanes of one worker
    rest = f'parameters {{ key: "lanes" value {{ string_value: "{lanes}" }} }}' if lanes > 1 else ""
    folder = add_gpu_model(repository, "net", backend="pytorch", width=WIDTH, count=lanes, rest=rest)
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()).eval()
    torch.jit.trace(module, torch.rand(2, WIDTH)).save(str(folder / "model.pt"))
    with machine.serving(repository) as broker, broker.client("local") as client:
        (model,) = client.index()
        assert model["state"] == "READY", f"{model}\n{broker.log()}"
        for rows in (1, 3, 8, 3):
            x = np.random.default_rng(rows).random((rows, WIDTH), np.float32)
            with torch.inference_mode():
                expected = module(torch.from_numpy(x)).numpy()
            result = client.infer("net", {"INPUT__0": x})
            np.testing.assert_allclose(result.outputs["OUTPUT__0"], expected, rtol=1e-2, atol=1e-2)

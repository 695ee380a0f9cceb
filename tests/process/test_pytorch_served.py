# SPDX-License-Identifier: Apache-2.0
"""Models of torch through the real client, over both links: TorchScript, an exported program, and files that cannot be served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from running import RunningBroker
from torch_files import torch, write_exported, write_script

from penstock.clients import ModelError

SCRIPTED = """
platform: "pytorch_libtorch"
max_batch_size: 8
input [
  { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 3 ] },
  { name: "INPUT__1" data_type: TYPE_FP32 dims: [ 3 ] }
]
output [
  { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 3 ] },
  { name: "OUTPUT__1" data_type: TYPE_FP32 dims: [ 3 ] }
]
parameters { key: "INTRA_OP_THREAD_COUNT" value { string_value: "1" } }
"""


class Both(torch.nn.Module):
    """The difference and the sum, of which the second changes an input in place."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        difference = x - y
        x += y
        return difference, x


def test_torchscript_is_served_and_leaves_a_client_s_memory_alone(tmp_path: Path, repository: Path, link: str) -> None:
    # Given a scripted module that changes its input
    write_script(repository / "net" / "1", Both())
    (repository / "net" / "config.pbtxt").write_text(SCRIPTED)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.full((4, 3), 10, np.float32)
        with client.buffers(client.model("net"), batch=4) as io:
            io.inputs["INPUT__0"][:], io.inputs["INPUT__1"][:] = x, y
            for _ in range(3):
                # When it computes from the client's own memory
                result = client.infer(io, timeout_s=30.0)
                # Then the answer is right, and what was sent is as it was
                np.testing.assert_array_equal(result.outputs["OUTPUT__0"], x - y)
                np.testing.assert_array_equal(result.outputs["OUTPUT__1"], x + y)
                np.testing.assert_array_equal(io.inputs["INPUT__0"], x)


def test_an_exported_program_needs_no_configuration(tmp_path: Path, repository: Path, link: str) -> None:
    module = torch.nn.Linear(3, 2)
    write_exported(repository / "net" / "1", module, torch.ones(2, 3))
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        (tensor,) = client.model("net").inputs
        assert (tensor.name, list(tensor.dims)) == ("input", [3])
        x = np.random.default_rng(1).random((3, 3), np.float32)
        result = client.infer("net", {"input": x}, timeout_s=30.0)
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(result.outputs["OUTPUT__0"], expected, rtol=1e-5)


def test_what_cannot_be_served_says_why_and_stops_no_other_model(tmp_path: Path, repository: Path) -> None:
    # Given a state_dict beside a model
    (repository / "weights" / "1").mkdir(parents=True)
    torch.save(torch.nn.Linear(2, 2).state_dict(), repository / "weights" / "1" / "model.pt")
    write_script(repository / "net" / "1", Both())
    for name in ("weights", "net"):
        (repository / name / "config.pbtxt").write_text(SCRIPTED)
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        states = {model["name"]: (model["state"], model["reason"]) for model in client.index()}
        assert states["net"] == ("READY", "")
        assert states["weights"][0] == "UNAVAILABLE"
        assert "'model.pt' is a pickled module or state_dict" in states["weights"][1]
        # When a shape does not go together with the model, it is said, and the next request is served
        x = np.ones((1, 3), np.float32)
        assert client.infer("net", {"INPUT__0": x, "INPUT__1": x}, timeout_s=30.0).outputs["OUTPUT__1"].tolist() == [[2, 2, 2]]


def test_an_exception_in_forward_reaches_the_caller(tmp_path: Path, repository: Path, link: str) -> None:
    class Picky(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if bool(x.sum() > 0):
                raise ValueError("positive numbers are beyond me")
            return x, y

    write_script(repository / "net" / "1", Picky())
    (repository / "net" / "config.pbtxt").write_text(SCRIPTED)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        x = np.ones((1, 3), np.float32)
        with pytest.raises(ModelError, match="positive numbers are beyond me"):
            client.infer("net", {"INPUT__0": x, "INPUT__1": x}, timeout_s=30.0)
        assert client.infer("net", {"INPUT__0": -x, "INPUT__1": x}, timeout_s=30.0).outputs["OUTPUT__1"].tolist() == [[1, 1, 1]]

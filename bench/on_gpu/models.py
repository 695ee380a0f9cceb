# SPDX-License-Identifier: Apache-2.0
"""The models that are served on the GPU: identity, a small convolutional network, and a chain of small kernels.

The two networks are TorchScript, made where torch is there; the first is a TensorRT plan too, where TensorRT is. What they
compute does not matter, only that it is what a small network costs: a few convolutions; and 60 matrix products in a row, each
far too small for the GPU, which nothing fuses.

usage: models.py FOLDER torch|plan      writes convnet.pt and chain.pt, or convnet.plan; run by bench/gpu.py

Beside the former go `convnet.npz` and `chain.npz`: what they answer to `inputs_of`, computed by the CPU.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
IMAGE = (3, 224, 224)
SCORES = 10
CHAIN_WIDTH, CHAIN_KERNELS = 256, 60
MAX_BATCH = 64
BATCHES = (1, 8, MAX_BATCH)
SEEDS = 4
"""Requests that differ, of each batch size."""

BUILD_S = 60.0

GRAPHS = "graphs: true " + " ".join(f"graph_spec {{ batch_size: {rows} }}" for rows in BATCHES)
"""The raw side replays graphs. Where `optimization.cuda` is there at all, graphs are off unless it says so."""
BUSY = {
    "auto": f"optimization {{ cuda {{ {GRAPHS} }} }}",
    "always": f"optimization {{ cuda {{ {GRAPHS} busy_wait_events: true }} }}",
}


class Network(NamedTuple):
    """A model of which there are several entries in the repository. `file` is "" for identity."""

    name: str
    backend: str
    file: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


IDENTITY = Network("identity", "identity", "", IMAGE, (SCORES,))
CONVNET = Network("convnet", "pytorch", "convnet.pt", IMAGE, (SCORES,))
PLAN = Network("plan", "tensorrt", "convnet.plan", IMAGE, (SCORES,))
CHAIN = Network("chain", "pytorch", "chain.pt", (CHAIN_WIDTH,), (CHAIN_WIDTH,))

NETWORKS = (IDENTITY, CONVNET, PLAN, CHAIN)


def inputs_of(network: Network, batch: int) -> list[Array]:
    """The requests that both sides send, by turns.

    Of different brightness: a network that averages over an image tells noise from noise by less than what rounding does.
    """
    return [
        np.random.default_rng(seed).random((batch, *network.inputs), np.float32) * np.float32(seed + 1) for seed in range(SEEDS)
    ]


def expected_of(network: Network, batch: int, folder: Path) -> list[Array]:
    """What must come out for `inputs_of`."""
    if not network.file:
        count = int(np.prod(network.outputs))
        return [x.reshape(batch, -1)[:, :count].reshape(batch, *network.outputs) for x in inputs_of(network, batch)]
    with np.load(folder / f"{Path(network.file).stem}.npz") as found:
        return list(found[str(batch)])


def is_right(found: Array, expected: Array) -> bool:
    """Exactly, or as nearly as TF32, in which GPUs may compute FP32 convolutions, comes to what a CPU computes."""
    return bool(np.allclose(found, expected, rtol=1e-2, atol=5e-3 * float(np.abs(expected).max())))


CONFIG = """name: "{name}"
backend: "{backend}"
max_batch_size: {max_batch_size}
input [ {{ name: "INPUT__0" data_type: TYPE_FP32 dims: [ {inputs} ] }} ]
output [ {{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ {outputs} ] }} ]
instance_group [ {{ count: {count} kind: KIND_GPU }} ]
{rest}
"""
LANES = 'parameters {{ key: "lanes" value {{ string_value: "{}" }} }}'


def add_entry(
    repository: Path, name: str, network: Network, folder: Path, *, count: int = 1, lanes: int = 1, rest: str = ""
) -> None:
    """Adds an entry that serves a network with so many instances, as processes or as lanes of one."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    if network.file:
        shutil.copy(folder / network.file, version / f"model{Path(network.file).suffix}")
    text = CONFIG.format(
        name=name, backend=network.backend, max_batch_size=MAX_BATCH, count=count if lanes == 1 else lanes,
        inputs=", ".join(map(str, network.inputs)), outputs=", ".join(map(str, network.outputs)),
        rest=rest if lanes == 1 else rest + LANES.format(lanes),
    )  # fmt: skip
    (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")


def build(folder: Path, kind: str) -> str:
    """Makes the files of a kind, torch or plan; "", or why there are none."""
    command = [sys.executable, __file__, str(folder), kind]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_S)
    except subprocess.TimeoutExpired:
        return f"not made within {BUILD_S:g} s"
    return "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"


def write_modules(folder: Path) -> None:
    """Writes the TorchScript files, and what they answer. Raises ImportError where there is no torch."""
    import torch

    torch.manual_seed(1)

    class Chain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rotation, _ = torch.linalg.qr(torch.randn(CHAIN_WIDTH, CHAIN_WIDTH))
            self.register_buffer("rotation", rotation)

        def forward(self, row: torch.Tensor) -> torch.Tensor:
            for _ in range(CHAIN_KERNELS):
                row = row @ self.rotation
            return row

    for network, module in ((CONVNET, _convnet()), (CHAIN, Chain())):
        traced = torch.jit.trace(module.eval(), torch.rand(2, *network.inputs))
        traced.save(str(folder / network.file))
        with torch.inference_mode():
            answers = {
                str(batch): np.stack([module(torch.from_numpy(x)).numpy() for x in inputs_of(network, batch)])
                for batch in BATCHES
            }
        np.savez(folder / f"{Path(network.file).stem}.npz", **answers)


def _convnet() -> Any:
    import torch

    torch.manual_seed(0)
    channels, layers = (3, 16, 32, 64, 128), []
    for before, after in itertools.pairwise(channels):
        layers += [torch.nn.Conv2d(before, after, 3, stride=2, padding=1), torch.nn.ReLU()]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels[-1], SCORES)]
    return torch.nn.Sequential(*layers, *head)


def write_plan(folder: Path) -> None:
    """Writes the TensorRT plan, by way of ONNX. Raises ImportError where there is no TensorRT or no torch."""
    import tensorrt
    import torch

    file, names = folder / "convnet.onnx", {"input_names": ["INPUT__0"], "output_names": ["OUTPUT__0"]}
    axes = {"INPUT__0": {0: "batch"}, "OUTPUT__0": {0: "batch"}}
    torch.onnx.export(
        _convnet().eval(), torch.rand(2, *IMAGE), str(file), dynamic_axes=axes, opset_version=17, dynamo=False, **names
    )
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    flags = getattr(tensorrt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # gone with TensorRT 11
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        sys.exit(f"TensorRT does not take the network: {[parser.get_error(n).desc() for n in range(parser.num_errors)]}")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("INPUT__0", *((rows, *IMAGE) for rows in (1, 8, MAX_BATCH)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit("TensorRT builds no plan; its reason is above")
    (folder / PLAN.file).write_bytes(bytes(plan))


if __name__ == "__main__":
    {"torch": write_modules, "plan": write_plan}[sys.argv[2]](Path(sys.argv[1]))

# SPDX-License-Identifier: Apache-2.0
"""GPUNet as bench/gpunet builds it: the size that is published, the keys of NVIDIA's checkpoints, what is computed from them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch_files import torch

from penstock.ipc.errors import CallerError

functional = torch.nn.functional
BENCH = Path(__file__).resolve().parents[2] / "bench"

SEARCHED = [
    {"layer_type": "data", "img_resolution": 32, "distill": False},
    {"layer_type": "head", "num_in_channels": 3, "num_out_channels": 8},
    {
        "layer_type": "conv",
        "num_in_channels": 8,
        "num_out_channels": 8,
        "stride": 1,
        "kernel_size": 3,
        "act": "relu",
        "stage": 1,
    },
    {
        "layer_type": "fused_irb",
        "num_in_channels": 8,
        "num_out_channels": 12,
        "stride": 2,
        "expansion": 2.5,
        "kernel_size": 3,
        "act": "relu",
        "use_se": False,
        "stage": 2,
    },
    {
        "layer_type": "irb",
        "num_in_channels": 12,
        "num_out_channels": 12,
        "stride": 1,
        "expansion": 4,
        "kernel_size": 5,
        "act": "swish",
        "use_se": True,
        "stage": 3,
    },
    {"layer_type": "tail", "num_in_channels": 12, "num_out_channels": 16, "num_classes": 10},
]
DISTILLED = [
    {"layer_type": "data", "img_resolution": 32, "distill": True},
    {"layer_type": "head_large", "num_in_channels": 3, "num_out_channels": 8},
    {
        "layer_type": "irb",
        "num_in_channels": 8,
        "num_out_channels": 8,
        "stride": 1,
        "expansion": 3,
        "kernel_size": 5,
        "groups": 1,
        "stage": 0,
    },
    {
        "layer_type": "fused_irb",
        "num_in_channels": 8,
        "num_out_channels": 12,
        "stride": 2,
        "expansion": 2,
        "kernel_size": 3,
        "groups": 1,
        "stage": 1,
    },
    {"layer_type": "tail", "num_in_channels": 12, "num_out_channels": 16, "num_classes": 10},
]


@pytest.fixture(scope="module")
def gpunet() -> Iterator[Any]:
    """The modules of bench/gpunet, which is no package that is installed."""
    sys.path.insert(0, str(BENCH))
    try:
        from gpunet import blocks, checkpoints, configuration, model, network
    finally:
        sys.path.remove(str(BENCH))
    yield SimpleNamespace(blocks=blocks, checkpoints=checkpoints, configuration=configuration, model=model, network=network)
    for name in [name for name in sys.modules if name.split(".")[0] == "gpunet"]:
        del sys.modules[name]


def built(gpunet: Any, layers: list[dict[str, Any]]) -> Any:
    """With random weights of which nothing is 0, statistics included, so that whatever is left out shows."""
    network = gpunet.network.GPUNet(layers).eval()
    generator = torch.Generator().manual_seed(1)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator) * 0.8)
    return network


@pytest.mark.parametrize(
    ("variant", "parameters", "macs"),
    [
        ("0.65ms", 11_885_432, 3_254_209_280),
        ("0.8ms-D", 39_905_672, 3_241_678_272),  # not published; what the configuration comes to
        ("1.25ms-D", 10_589_859, 4_289_640_427),  # 10.6 million parameters are published
    ],
)
def test_networks_have_the_size_that_is_published(gpunet: Any, variant: str, parameters: int, macs: int) -> None:
    with torch.device("meta"):  # shapes without numbers
        network = gpunet.network.GPUNet(gpunet.configuration.read(gpunet.configuration.file_of(variant))).eval()
        assert gpunet.network.size_of(network) == (parameters, macs)


def test_keys_are_those_of_nvidias_checkpoints(gpunet: Any) -> None:
    expected = {
        "0.8ms-D": [
            "network.head: 2.net.0.weight", "network.head: 2.net.1.running_var", "network.stage: 1 layer3.conv.weight",
            "network.stage: 2 layer5.bn1.num_batches_tracked", "network.stage: 2 layer6.conv_pw.weight",
            "network.stage: 4 layer11.bn2.bias", "network.stage: 6 layer17.conv_pwl.weight", "network.stage: 6 layer17.bn3.weight",
            "network. layer18.net.0.weight", "network. layer18.net.6.bias",
        ],
        "0.65ms": ["network.stage: 2 layer5.conv_exp.weight", "network.stage: 6 layer13.se.conv_reduce.bias",
                   "network.stage: 6 layer14.se.conv_expand.weight", "network. layer15.net.6.weight"],
        "1.25ms-D": ["network.head:.net.0.weight", "network.stage: 0 irb3.body.3.weight", "network.stage: 3 irb17.body.7.running_mean",
                     "network.tail:.net.4.weight", "network.tail:.net.8.bias"],
    }  # fmt: skip
    for variant, some in expected.items():
        with torch.device("meta"):
            network = gpunet.network.GPUNet(gpunet.configuration.read(gpunet.configuration.file_of(variant)))
        assert set(some) <= set(network.state_dict()), variant


def normalised(x: Any, held: dict[str, Any], at: str, eps: float = 1e-3) -> Any:
    found = [held[f"{at}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    return functional.batch_norm(x, *found, eps=eps)


def test_a_searched_network_computes_what_its_keys_say(gpunet: Any) -> None:
    # Given a network with a head in swish, a fused block with a stride, and a block with squeeze and excitation
    network = built(gpunet, SEARCHED)
    held, images = network.state_dict(), torch.rand(2, 3, 32, 32)
    # When the same is computed from the tensors alone
    x = functional.conv2d(images, held["network.head: 2.net.0.weight"], stride=2, padding=1)
    x = functional.silu(normalised(x, held, "network.head: 2.net.1"))
    x = functional.conv2d(x, held["network.stage: 1 layer3.conv.weight"], padding=1)
    x = functional.relu(normalised(x, held, "network.stage: 1 layer3.bn1"))
    at = "network.stage: 2 layer4"
    assert held[f"{at}.conv_exp.weight"].shape == (24, 8, 3, 3)  # 2.5 times 8, as the next multiple of 8
    x = functional.conv2d(x, held[f"{at}.conv_exp.weight"], stride=2)  # which is not padded
    x = functional.relu(normalised(x, held, f"{at}.bn1"))
    x = normalised(functional.conv2d(x, held[f"{at}.conv_pwl.weight"]), held, f"{at}.bn2")
    assert x.shape == (2, 12, 7, 7)
    at = "network.stage: 3 layer5"
    y = functional.silu(normalised(functional.conv2d(x, held[f"{at}.conv_pw.weight"]), held, f"{at}.bn1"))
    y = functional.conv2d(y, held[f"{at}.conv_dw.weight"], padding=2, groups=48)
    y = functional.silu(normalised(y, held, f"{at}.bn2"))
    assert held[f"{at}.se.conv_reduce.weight"].shape == (3, 48, 1, 1)  # a quarter of what comes in
    gate = y.mean((2, 3), keepdim=True)
    gate = functional.silu(functional.conv2d(gate, held[f"{at}.se.conv_reduce.weight"], held[f"{at}.se.conv_reduce.bias"]))
    gate = functional.conv2d(gate, held[f"{at}.se.conv_expand.weight"], held[f"{at}.se.conv_expand.bias"])
    x = x + normalised(functional.conv2d(y * gate.sigmoid(), held[f"{at}.conv_pwl.weight"]), held, f"{at}.bn3")
    x = functional.relu(normalised(functional.conv2d(x, held["network. layer6.net.0.weight"]), held, "network. layer6.net.1"))
    scores = functional.linear(x.mean((2, 3)), held["network. layer6.net.6.weight"], held["network. layer6.net.6.bias"])
    # Then it is what the network says
    torch.testing.assert_close(network(images), scores, rtol=1e-4, atol=1e-4)


def test_a_distilled_network_computes_what_its_keys_say(gpunet: Any) -> None:
    network = built(gpunet, DISTILLED)
    held, x = network.state_dict(), torch.rand(2, 3, 32, 32)
    images = x
    for place, stride in ((0, 2), (3, 1), (6, 1)):
        x = functional.conv2d(x, held[f"network.head:.net.{place}.weight"], stride=stride, padding=1)
        x = functional.relu(normalised(x, held, f"network.head:.net.{place + 1}", 1e-5))
    at = "network.stage: 0 irb3.body"
    y = functional.relu(normalised(functional.conv2d(x, held[f"{at}.0.weight"]), held, f"{at}.1", 1e-5))
    y = functional.conv2d(y, held[f"{at}.3.weight"], padding=2, groups=24)
    y = functional.relu(normalised(y, held, f"{at}.4", 1e-5))
    x = x + normalised(functional.conv2d(y, held[f"{at}.6.weight"]), held, f"{at}.7", 1e-5)
    at = "network.stage: 1 fused_irb4.body"
    y = functional.relu(normalised(functional.conv2d(x, held[f"{at}.0.weight"], stride=2, padding=1), held, f"{at}.1"))
    x = normalised(functional.conv2d(y, held[f"{at}.3.weight"]), held, f"{at}.4")
    at = "network.tail:.net"
    x = functional.relu(normalised(functional.conv2d(x, held[f"{at}.0.weight"]), held, f"{at}.1", 1e-5))
    x = functional.relu(functional.conv2d(x.mean((2, 3), keepdim=True), held[f"{at}.4.weight"])).flatten(1)
    scores = functional.linear(x, held[f"{at}.8.weight"], held[f"{at}.8.bias"])
    torch.testing.assert_close(network(images), scores, rtol=1e-4, atol=1e-4)


def test_with_random_weights_scores_depend_on_the_image_and_are_the_same_every_time(gpunet: Any, tmp_path: Path) -> None:
    # Given a network of many blocks
    block = {**SEARCHED[4], "act": "relu"}
    layers = [*SEARCHED[:4], *[block] * 12, SEARCHED[5]]
    file = tmp_path / "deep.json"
    file.write_text(json.dumps(layers))
    # When it is made twice
    one, two = (gpunet.model.make(file, None) for _ in range(2))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        first, second = one.network(images)
        again, _ = two.network(images)
    # Then images differ by as much as scores do, and the weights are said to be nobody's
    assert float((first - second).std()) > 0.1 * float(first.std()) > 0.01
    assert torch.equal(first, again)
    assert one.weights.startswith("RANDOM WEIGHTS (seed 0)")
    # And what is normalised has the mean and the variance that it is normalised by
    convolution, norm, *_ = one.network.network[0].net
    with torch.no_grad():
        seen = convolution(torch.rand(16, 3, 32, 32)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, seen.mean(1), rtol=0.1, atol=0.05)
    torch.testing.assert_close(norm.running_var, seen.var(1), rtol=0.1, atol=0.05)


def test_channels_are_rounded_to_eights_but_not_down_by_more_than_a_tenth(gpunet: Any) -> None:
    found = {channels: gpunet.blocks.divisible(channels) for channels in (1, 8, 10, 11.9, 12, 19, 2017.28, 5216.64)}
    assert found == {1: 8, 8: 8, 10: 16, 11.9: 16, 12: 16, 19: 24, 2017.28: 2016, 5216.64: 5216}


def test_nvidias_checkpoints_are_read(gpunet: Any, tmp_path: Path) -> None:
    # Given what NVIDIA saves: a state dict alone, or timm's training, with averaged weights, from several GPUs
    config = tmp_path / "small.json"
    config.write_text(json.dumps(SEARCHED))
    last, averaged = (gpunet.network.GPUNet(SEARCHED).state_dict() for _ in range(2))
    alone, trained = tmp_path / "alone.pth.tar", tmp_path / "trained.pth.tar"
    torch.save(last, alone)
    torch.save(
        {
            "epoch": 449, "arch": "gpunet_0", "args": argparse.Namespace(model="gpunet_0", drop=0.3),
            "state_dict": {f"module.{key}": value for key, value in last.items()},
            "state_dict_ema": {f"module.{key}": value for key, value in averaged.items()},
        },
        trained,
    )  # fmt: skip
    # When they are loaded
    for file, weights, said in ((alone, last, "weights of alone"), (trained, averaged, "averaged weights (state_dict_ema) of")):
        made = gpunet.model.make(config, file)
        # Then the network has these weights, the averaged ones where there are such
        assert said in made.weights
        assert all(torch.equal(value, weights[key]) for key, value in made.network.state_dict().items())
    # And convert gets the network with an image for it
    network, examples = gpunet.model.get_model(config=config, checkpoint=trained, precision="fp32")
    assert examples["INPUT__0"].shape == (1, 3, 32, 32)
    assert network(examples["INPUT__0"]).shape == (1, 10)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_a_checkpoint_that_does_not_fit_says_which_keys_and_none_is_run(gpunet: Any, tmp_path: Path) -> None:
    network = gpunet.network.GPUNet(SEARCHED)
    file = tmp_path / "other.pth"
    torch.save(gpunet.network.GPUNet([*SEARCHED[:3], {**SEARCHED[3], "stage": 9}, *SEARCHED[4:]]).state_dict(), file)
    with pytest.raises(CallerError, match=r"missing: network\.stage: 2 layer4.*unexpected: network\.stage: 9 layer4"):
        gpunet.checkpoints.load(network, file)
    torch.save({"state_dict": network.state_dict(), "args": Evil()}, file)
    with pytest.raises(CallerError, match=r"cannot be read as weights: UnpicklingError: Unsupported \S+: GLOBAL \S*print"):
        gpunet.checkpoints.load(network, file)
    # And what one checkpoint needed is not what others may bring
    assert argparse.Namespace not in torch.serialization.get_safe_globals()

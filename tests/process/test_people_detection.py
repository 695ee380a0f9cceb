# SPDX-License-Identifier: Apache-2.0
"""`penstock demo people-detection` with real brokers: both demonstrations, what is refused, and that nothing is left behind.

The detector is a stand-in that sees two people where the image has two red rectangles. How long it takes is nobody's business.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detector_files import add_detector, detector
from onnx import numpy_helper
from PIL import Image
from running import START_S, RunningBroker, add_model, children_of, eventually
from simulated.tensorrt_packages import SimulatedTensorRT

DEMO = [sys.executable, "-m", "penstock.clients.cli", "demo", "people-detection"]
CALLS = 6


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Two red rectangles, in another size than the network's."""
    pixels = np.full((272, 480, 3), 40, np.uint8)
    pixels[60:160, 60:110] = pixels[60:160, 330:380] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    return tmp_path / "street.png"


class Demo:
    """The command, in those surroundings and on that image."""

    def __init__(self, surroundings: dict[str, str], image: Path, folder: Path) -> None:
        self.environment = surroundings
        self.words = [*DEMO, "--image", str(image)]
        self.folder = folder

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.words, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
            timeout=2 * START_S,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert self.files_left() == []
        return done

    def rounds(self, *words: str) -> list[dict[str, Any]]:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["rounds"]
        return found

    def files_left(self) -> list[str]:
        return [str(path) for name in ("TMPDIR", "PENSTOCK_RUNTIME_DIR") for path in Path(self.environment[name]).rglob("*")]


@pytest.fixture
def demo(surroundings: dict[str, str], image: Path, tmp_path: Path) -> Demo:
    return Demo(surroundings, image, tmp_path)


def statistics(round_: dict[str, Any]) -> dict[str, Any]:
    (found,) = round_["statistics"]["model_stats"]
    counted: dict[str, Any] = found
    return counted


def batches(round_: dict[str, Any]) -> dict[int, int]:
    return {row["batch_size"]: row["compute_infer"]["count"] for row in statistics(round_)["batch_stats"]}


# --- the two demonstrations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", ["0", "2"])
def test_concurrent_execution_executes_each_call_by_itself(demo: Demo, repository: Path, warmup: str) -> None:
    # Given three instances, and no batching
    add_detector(repository, count=3)
    # When six call at once, after others that do not count
    (found,) = demo.rounds("-r", str(repository), "-t", "6", "--warmup", warmup)
    # Then each was an execution
    counted = statistics(found)
    assert (counted["inference_count"], counted["execution_count"]) == (CALLS, CALLS)
    assert counted["inference_stats"]["success"]["count"] == CALLS and counted["inference_stats"]["fail"]["count"] == 0
    assert batches(found) == {1: CALLS}
    # And all three instances had some
    assert {call["instance"] for call in found["calls"]} == {f"peoplenet_0_{number}" for number in range(3)}
    # And all saw the two people
    assert [thing["label"] for thing in found["objects"]] == ["person", "person"]
    assert found["largest_difference"] == 0
    assert (found["instances"], found["dynamic_batching"], found["memory"]) == (3, False, "system")


def test_dynamic_batching_executes_calls_together(demo: Demo, repository: Path) -> None:
    # Given one instance that takes longer than calls take to arrive, with dynamic batching
    add_detector(repository, batching="dynamic_batching { }", rounds=24)
    (found,) = demo.rounds("-r", str(repository), "--threads", "6")
    # Then there were fewer executions than inferences, whose batches have all calls in them
    counted = statistics(found)
    assert counted["inference_count"] == CALLS and counted["execution_count"] < CALLS
    assert sum(rows * count for rows, count in batches(found).items()) == CALLS
    assert sum(batches(found).values()) == counted["execution_count"]
    # And those that came while the first was executed were executed together
    assert max(batches(found)) > 1 and max(call["batch_size"] for call in found["calls"]) == max(batches(found))
    assert found["dynamic_batching"] and found["largest_difference"] <= 0.01


def test_the_page_has_the_statistics_the_total_and_every_call(demo: Demo, repository: Path) -> None:
    add_detector(repository, count=2)
    done = demo.run("-m", "system", "-v", "-r", str(repository), "-t", "4", "-s", "true")
    assert done.returncode == 0, done.stderr
    # Then what KIND_GPU became is said
    assert "served on the CPU because of --fallback cpu" in done.stderr
    assert "peoplenet/1: 2 instances on the CPU, dynamic batching off; 4 calls at once, tensors in system memory" in done.stdout
    # And every call, and every object
    assert [f"\ncall {number}  " in done.stdout for number in range(5)] == [True] * 4 + [False]
    assert done.stdout.count("\nperson  1.00 at (") == 2 and "found   2 person" in done.stdout
    # And Triton's statistics, as JSON
    _, _, page = done.stdout.partition("\nModel 'peoplenet' Stats:\n")
    document, _, total = page.partition("\n\nTOTAL INFERENCE TIME: ")
    assert json.loads(document)["model_stats"][0]["execution_count"] == 4
    assert total.strip().removesuffix("ms").isdecimal()
    # And there is an image for each call, of the size of the one that was shown, with boxes where the people are
    overlays = sorted((demo.folder / "people-detection-output").iterdir())
    assert [overlay.name for overlay in overlays] == [f"capture_overlay_{number}.png" for number in range(4)]
    for overlay in overlays:
        drawn = np.asarray(Image.open(overlay))
        assert drawn.shape == (272, 480, 3)
        assert ((drawn == (64, 255, 64)).all(axis=2)).sum() > 200


def test_instance_counts_are_compared(demo: Demo, repository: Path) -> None:
    add_detector(repository)
    words = ("-r", str(repository), "-t", "3", "--sweep-count", "3,1..2")
    # When the model is called with each
    found = demo.rounds(*words, "-s", "true", "--output-dir", str(demo.folder / "seen"))
    # Then it was loaded with each, and each round is counted by itself
    assert [each["instances"] for each in found] == [3, 1, 2]
    assert [len({call["instance"] for call in each["calls"]}) <= each["instances"] for each in found] == [True] * 3
    assert all(statistics(each)["inference_stats"]["success"]["count"] == 3 for each in found)
    for each in found:
        means = [statistics(each)["inference_stats"][stage]["ns"] / 3e6 for stage in ("success", "queue")]
        assert [each["request_ms"], each["queue_ms"]] == pytest.approx(means)
        assert each["queue_ms"] + each["compute_ms"] <= each["request_ms"]
    # And the overlays of one do not replace those of another
    assert sorted(path.name for path in (demo.folder / "seen").iterdir()) == ["instances_1", "instances_2", "instances_3"]
    # And the page has a table and a chart of them
    done = demo.run(*words)
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines() if line.rstrip().endswith("3 of 1")]
    assert [row[0] for row in table] == ["3", "1", "2"]
    assert done.stdout.count("█") > 48 and "░ queue, █ compute" in done.stdout


def test_both_features_together(demo: Demo, repository: Path) -> None:
    add_detector(repository, count=3)
    # When the model of the first demonstration is given dynamic batching
    (found,) = demo.rounds("-r", str(repository), "--dynamic-batching", "true", "--sweep-count", "2")
    # Then two instances share the calls, some of them together
    assert found["dynamic_batching"] and found["instances"] == 2
    assert statistics(found)["execution_count"] < CALLS
    # And batching can be taken from one that has it
    add_detector(repository, "other", batching="dynamic_batching { }")
    (found,) = demo.rounds("-r", str(repository), "--dynamic-batching", "false", "--model", "other")
    assert not found["dynamic_batching"] and batches(found) == {1: CALLS}


# --- memory and brokers ----------------------------------------------------------------------------------------------------


def test_pinned_memory_without_a_gpu_is_said_to_be_not_pinned(demo: Demo, repository: Path) -> None:
    add_detector(repository)
    done = demo.run("-m", "pinned", "-r", str(repository), "-t", "2")
    assert done.returncode == 0
    assert "penstock: nothing is pinned: only instances on a GPU pin memory, and there is none" in done.stderr
    assert "tensors in pinned memory" in done.stdout


@pytest.mark.parametrize("memory", ["system", "pinned"])
def test_a_broker_that_runs_is_called_as_it_is(
    demo: Demo, repository: Path, link: str, memory: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Given a broker whose model has answered somebody else
    add_detector(repository, "mine")
    add_model(repository, "echo")
    with RunningBroker(tmp_path_factory.mktemp("run"), repository, "--fallback", "cpu") as broker:
        for calls in (2, 3):
            # When the only detector it has is called
            (found,) = demo.rounds("-u", broker.addresses[link], "-m", memory, "-t", str(calls))
            # Then these calls alone are counted
            assert (found["model"], statistics(found)["execution_count"]) == ("mine", calls)
        # And nothing of them is left
        with broker.client(link) as client:
            assert client.regions() == []


@pytest.mark.parametrize("memory", ["pinned", "gpu"])
def test_on_a_simulated_gpu_memory_is_pinned_or_is_there(
    simulated_tensorrt: SimulatedTensorRT, demo: Demo, repository: Path, memory: str
) -> None:
    # Given a machine with a GPU, which is simulated, and a plan of the layout
    demo.environment.update(simulated_tensorrt.environment(), TMPDIR=demo.environment["TMPDIR"])
    op = {"op": "onnx", "model": base64.b64encode(detector(0).SerializeToString()).decode(), "kinds": ["FLOAT", "FLOAT"]}
    image = {"image": ("FLOAT", [-1, 3, 544, 960])}
    outputs = {name: ("FLOAT", [-1, channels, 34, 60]) for name, channels in (("cov", 3), ("box", 12))}
    profile = {"image": [[1, 3, 544, 960], [1, 3, 544, 960], [2, 3, 544, 960]]}
    add_detector(repository, count=2, max_batch_size=2, plan=simulated_tensorrt.plan(image, outputs, [op], [profile]))
    # When it is called with tensors in each kind of memory
    (found,) = demo.rounds("-m", memory, "-r", str(repository), "-t", "3")
    # Then instances on the GPU answered
    assert (found["instances"], len(found["on"]), found["on"][0][:4]) == (2, 1, "GPU-")
    assert [thing["label"] for thing in found["objects"]] == ["person", "person"] and found["largest_difference"] == 0
    # And have pinned the memory of the host
    assert found["pinned_by"] == ([] if memory == "gpu" else ["peoplenet_0_0", "peoplenet_0_1"])


def test_gpu_memory_without_a_gpu_is_refused_before_anything_starts(demo: Demo, repository: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    done = demo.run("-m", "gpu", "-r", str(repository))
    assert done.returncode == 1
    assert "penstock: UNSUPPORTED: memory gpu cannot be had: " in done.stderr
    assert "memory system and memory pinned need no GPU" in done.stderr


# --- what cannot be ----------------------------------------------------------------------------------------------------------


def test_a_model_of_another_layout(demo: Demo, repository: Path) -> None:
    add_model(repository, "peoplenet")
    done = demo.run("-r", str(repository))
    assert done.returncode == 1
    assert "model 'peoplenet' is no detector of the layout of PeopleNet" in done.stderr


def test_no_model_or_a_choice_of_them(demo: Demo, repository: Path) -> None:
    add_model(repository, "echo")
    done = demo.run("-r", str(repository))
    assert done.returncode == 1 and "of echo not one alone has the layout of PeopleNet (those that have: none)" in done.stderr
    add_detector(repository, "a")
    add_detector(repository, "b")
    done = demo.run("-r", str(repository))
    assert done.returncode == 1 and "(those that have: a, b): name the model" in done.stderr
    done = demo.run("-r", str(repository), "--model", "c")
    assert done.returncode == 1 and "NOT_FOUND" in done.stderr and "'c'" in done.stderr


def test_a_model_that_is_not_loaded_says_why(demo: Demo, repository: Path) -> None:
    add_detector(repository)
    (repository / "peoplenet" / "1" / "model.onnx").write_bytes(b"nothing")
    done = demo.run("-r", str(repository))
    assert done.returncode == 1 and "model 'peoplenet' is UNAVAILABLE: " in done.stderr and "model.onnx" in done.stderr


def test_answers_that_are_no_numbers(demo: Demo, repository: Path) -> None:
    # Given a detector that answers NaN
    add_detector(repository)
    broken = detector(1)
    next(tensor for tensor in broken.graph.initializer if tensor.name == "distances").CopyFrom(
        numpy_helper.from_array(np.full(12, np.nan, np.float32), "distances")
    )
    (repository / "peoplenet" / "1" / "model.onnx").write_bytes(broken.SerializeToString())
    # Then that is what is said, and not that rounding made a difference
    done = demo.run("-r", str(repository), "-t", "2")
    assert done.returncode == 1
    assert "penstock: an answer has values that are no numbers" in done.stderr
    assert "an answer has values that are no numbers" in done.stdout and "round differently" not in done.stdout


def test_one_batch_of_all_calls_is_explained(demo: Demo, repository: Path) -> None:
    # Given a queue delay that all calls come within
    add_detector(repository, batching="dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 5000000 }")
    done = demo.run("-r", str(repository), "-t", "3")
    assert done.returncode == 0, done.stderr
    assert "\nbatches one of all calls: they had come before the first was sent on" in done.stdout


def test_batching_that_joined_no_calls_is_explained(demo: Demo, repository: Path) -> None:
    add_detector(repository, max_batch_size=1, batching="dynamic_batching { }")
    done = demo.run("-r", str(repository), "-t", "3")
    assert "\nbatches none of several calls: " in done.stdout


def test_a_folder_that_cannot_be_written(demo: Demo, repository: Path) -> None:
    add_detector(repository)
    (demo.folder / "file").touch()
    done = demo.run("-r", str(repository), "-t", "1", "-s", "true", "--output-dir", str(demo.folder / "file" / "inside"))
    assert done.returncode == 1
    assert f"cannot write to {demo.folder / 'file' / 'inside'}: {demo.folder / 'file'} is no directory" in done.stderr
    # And that is said before anything is started, not after all was called and before it was shown
    assert "served on the CPU" not in done.stderr


def test_interrupted_it_leaves_nothing(demo: Demo, repository: Path) -> None:
    # Given a demonstration whose broker has been started
    add_detector(repository)
    command = [*demo.words, "-r", str(repository)]
    with subprocess.Popen(
        command, env=demo.environment, cwd=demo.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        eventually(lambda: bool(children_of(process.pid)), START_S, "the broker was started")
        # When it is interrupted
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=START_S)
    # Then it ends without a traceback; processes and /dev/shm are looked at by conftest.py
    assert process.returncode == 1
    assert "Traceback" not in said
    assert demo.files_left() == []


# --- the page ----------------------------------------------------------------------------------------------------------------


def commands_of_the_page() -> list[str]:
    page = Path(__file__).resolve().parents[2] / "docs" / "demonstrations.md"
    return re.findall(r"^\$ penstock demo people-detection (.*)$", page.read_text(), re.MULTILINE)


def test_the_page_has_both_demonstrations_and_the_sweeps() -> None:
    assert len(commands_of_the_page()) == 4


@pytest.mark.parametrize("command", commands_of_the_page())
def test_every_command_of_the_page_does_what_it_says(surroundings: dict[str, str], tmp_path: Path, command: str) -> None:
    # Given what comes with Penstock, and nothing else
    done = subprocess.run(
        [*DEMO, *shlex.split(command), "--json"], cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False,
        timeout=4 * START_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Then everybody is found in every call, and each was executed
    for found in json.loads(done.stdout)["rounds"]:
        assert [thing["label"] for thing in found["objects"]].count("person") > 3
        assert sum(rows * count for rows, count in batches(found).items()) == CALLS
        assert (statistics(found)["execution_count"] == CALLS) == (not found["dynamic_batching"])

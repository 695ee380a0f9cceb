# SPDX-License-Identifier: Apache-2.0
"""Trains the detector of the people detection demo on drawn streets, judges it on others, and writes it into both repositories.

It takes ten minutes of processor time. Rounding differs from machine to machine, and the network a little with it.

usage: python bench/people_detector/train.py [--steps N] [--out FILE.onnx]     needs torch and onnx
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from accuracy import Accuracy, accuracy
from network import IMAGE, Detector, onnx_model, parameters
from targets import Targets, batched, loss, targets_of

from penstock.clients.people_detection.boxes import found
from penstock.clients.people_detection.images import as_tensor
from penstock.clients.people_detection.layout import HEIGHT, WIDTH
from penstock.clients.people_detection.scenes import Scene, draw_scene

REPOSITORIES = Path(__file__).parents[2] / "clients" / "people_detection" / "repositories"
NAMES = ("trtis_model_repo_sample_1", "trtis_model_repo_sample_2")
SEED = 2024
PROCESSES = 2
"""That draw, and threads that train: another number of them rounds differently."""
HELD_OUT = range(100)
TRAINING = range(10_000, 10_240)
"""Seeds of scenes."""

STEPS, PIECES_PER_STEP = 1500, 4
PIECE = (HEIGHT, 448)
"""All that is above and below somebody."""

LEVELS = np.arange(256) / 255
"""What a pixel may be."""

LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-4


def pieces(scenes: list[Scene], random: np.random.Generator) -> Iterator[tuple[npt.NDArray[np.float32], Targets]]:
    """Pieces of scenes without end, half of them mirrored, in other light each time."""
    height, width = PIECE
    while True:
        for number in random.permutation(len(scenes)):
            scene = scenes[number]
            left, top = int(random.integers(WIDTH - width + 1)), int(random.integers(HEIGHT - height + 1))
            light = LEVELS ** random.uniform(0.75, 1.35) * random.uniform(0.8, 1.1, (3, 1))
            seen = scene.pixels[top : top + height, left : left + width]
            pixels = np.stack([of.astype(np.float32)[seen[:, :, colour]] for colour, of in enumerate(light.clip(0, 1))])
            truths = scene.truths
            if random.random() < 0.5:
                pixels, left = pixels[:, :, ::-1], WIDTH - width - left
                truths = tuple(
                    truth._replace(box=truth.box._replace(x1=WIDTH - truth.box.x2, x2=WIDTH - truth.box.x1)) for truth in truths
                )
            yield np.ascontiguousarray(pixels), targets_of(truths, left, top, height, width)


def train(detector: Detector, scenes: list[Scene], steps: int) -> None:
    """AdamW with a learning rate that rises for a tenth of the steps and then falls to zero along a cosine."""
    optimizer = torch.optim.AdamW(detector.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    stream = pieces(scenes, np.random.default_rng(SEED))
    detector.train()
    recent: list[float] = []
    for step in range(1, steps + 1):
        batch = [next(stream) for _ in range(PIECES_PER_STEP)]
        images = torch.from_numpy(np.stack([image for image, _ in batch])).to(memory_format=torch.channels_last)
        wrong = loss(*detector(images), batched([wanted for _, wanted in batch]))
        optimizer.zero_grad()
        wrong.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        recent.append(float(wrong.detach()))
        if step % 50 == 0:
            say(f"step {step} of {steps}: loss {np.mean(recent):.3f}")
            recent.clear()


def judge(model: Path, scenes: list[Scene]) -> list[Accuracy]:
    """The model as a file, as onnxruntime runs it, on scenes it was not trained on."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in workers/backends/onnx_sessions.py
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    tensors = [as_tensor(scene.pixels)[np.newaxis] for scene in scenes]
    outputs = [session.run(None, {IMAGE: tensor}) for tensor in tensors]
    return accuracy(
        (found(coverage[0], boxes[0]), scene.truths) for (coverage, boxes), scene in zip(outputs, scenes, strict=True)
    )


def say(text: str) -> None:
    print(f"{time.process_time():6.0f} s  {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, help="written instead of both repositories")
    arguments = parser.parse_args()
    torch.set_num_threads(PROCESSES)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    with ProcessPoolExecutor(PROCESSES) as pool:
        training, held_out = (pool.map(draw_scene, seeds) for seeds in (TRAINING, HELD_OUT))
        scenes = list(training)
        say(f"{len(scenes)} scenes drawn")
        detector = Detector().to(memory_format=torch.channels_last)  # half the time that the other order takes
        say(f"{sum(parameters(detector))} parameters")
        train(detector, scenes, arguments.steps)
        files = [arguments.out] if arguments.out else [REPOSITORIES / name / "peoplenet/1/model.onnx" for name in NAMES]
        for file in files:
            onnx.save(onnx_model(detector.eval()), file)
        judged = judge(files[0], list(held_out))
    print("class   truths  precision  recall  AP at 0.5")
    for row in judged:
        print(f"{row.label:7} {row.truths:6}  {row.precision:9.3f}  {row.recall:6.3f}  {row.average_precision:9.3f}")


if __name__ == "__main__":
    main()

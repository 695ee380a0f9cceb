# SPDX-License-Identifier: Apache-2.0
"""The options of `penstock demo people-detection`. Those of one letter are the original's."""

from __future__ import annotations

from pathlib import Path

import click

from .options import in_order, json_option


def instance_counts(text: str) -> tuple[int, ...]:
    """1..6 or 1,2,4."""
    from ..people_detection.variants import counts_of

    try:
        return counts_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_OPTIONS = (
    click.option(
        "-m",
        "--memory",
        type=click.Choice(["system", "pinned", "gpu"]),
        default="system",
        show_default=True,
        help="What inputs and outputs lie in: POSIX shared memory, shared memory that instances on a GPU pin, CUDA memory.",
    ),
    click.option(
        "-r",
        "--repository",
        metavar="REPOSITORY",
        show_default="trtis_model_repo_sample_1",
        help="The model repository: a directory, or the name of one that comes with Penstock (trtis_model_repo_sample_1, "
        "trtis_model_repo_sample_2).",
    ),
    click.option(
        "-t",
        "--tasks",
        "--threads",
        "tasks",
        type=click.IntRange(1, 256),
        default=6,
        show_default=True,
        help="How many call the model at once, one call each.",
    ),
    click.option(
        "-s",
        "--save",
        type=bool,
        metavar="true|false",
        default=False,
        show_default=True,
        help="Write the image with the boxes of each call to --output-dir.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Say of every call how it was served, and of every object where it is."),
    click.option(
        "-u",
        "--address",
        metavar="ADDRESS",
        help="Call a broker that runs already, at unix:///PATH or ipc:///PATH, and start none.",
    ),
    click.option(
        "--model", metavar="MODEL", show_default="peoplenet, or the only detector there is", help="Which one is called."
    ),
    click.option(
        "--image",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        show_default="a street that is drawn",
        help="What the model is shown: a PNG or JPEG file.",
    ),
    click.option(
        "--warmup",
        "warm_up",
        type=click.IntRange(0),
        default=1,
        show_default=True,
        help="How often all call before the calls that count.",
    ),
    click.option(
        "--sweep-count",
        "counts",
        type=instance_counts,
        metavar="1..6",
        help="Load the model with each of these instance counts (1..6, or 1,2,4) and compare.",
    ),
    click.option(
        "--dynamic-batching",
        type=bool,
        metavar="true|false",
        show_default="as configured",
        help="Load the model with dynamic batching, or without it.",
    ),
    click.option(
        "--output-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("people-detection-output"),
        show_default=True,
        help="Where -s true writes.",
    ),
    json_option,
)

people_detection_options = in_order(_OPTIONS)

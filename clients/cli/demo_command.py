# SPDX-License-Identifier: Apache-2.0
"""`penstock demo`: real digits classified through shared memory by batching workers."""

from __future__ import annotations

import click

from .failures import CommandFailed, exit_codes
from .options import json_option
from .people_detection_command import people_detection
from .rendering import print_json


@click.group(
    invoke_without_command=True,
    subcommand_metavar="[people-detection [ARGS]...]",
    short_help="Classify real digits on the sample models; shows what Penstock does.",
    epilog=exit_codes(
        {
            0: "every answer was right, and the accuracy at least 0.97",
            1: "some was not, something was left behind, or a part of the demo failed",
            2: "wrong usage",
        }
    ),
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="How often each client sends its digits.")
@json_option
@click.pass_context
def demo(ctx: click.Context, rounds: int, as_json: bool) -> None:
    """Serve the sample models for a few seconds and classify 360 scanned digits from four client processes at once.

    Two clients use each link. Every answer is compared with that of onnxruntime called directly. Prints the accuracy,
    requests per second, latencies, how batches formed and why they closed, what was copied, and a few of the digits. Needs
    no GPU; uses sockets of its own, and leaves no process, no file and nothing in /dev/shm.

    With --json: an object with images, accuracy, mismatches, requests_per_s, p50_us, p99_us, batch_sizes (rows of a batch:
    how many) and copies (kind: count, byte_size).

    `penstock demo people-detection` is a demonstration of its own, with options of its own.
    """
    if ctx.invoked_subcommand is not None:
        if as_json or rounds != 1:
            raise click.UsageError(
                f"--rounds and --json of demo itself are none of {ctx.invoked_subcommand}'s: put options behind it"
            )
        return
    from .children import interrupted_once
    from .demo_report import document_of, figures_of, print_report
    from .demo_run import left_behind, run, shared_memory

    before = shared_memory()
    with interrupted_once():
        outcome = run(rounds)
    figures, left = figures_of(outcome), left_behind(outcome, before)
    if as_json:
        print_json(document_of(figures))
    else:
        print_report(outcome, figures, left)
    if not figures.is_good:
        raise CommandFailed(f"{figures.mismatches} answers are wrong, the accuracy is {figures.accuracy:.4f}")
    if left:
        raise CommandFailed(f"left behind: {', '.join(left)}")


demo.add_command(people_detection)

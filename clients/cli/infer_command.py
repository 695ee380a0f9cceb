# SPDX-License-Identifier: Apache-2.0
"""`penstock infer`: one request from .npy files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .connecting import connected
from .failures import CommandFailed, exit_codes
from .model_names import model_argument
from .options import address_option, json_option
from .rendering import duration, print_json

if TYPE_CHECKING:
    from ..client import Client
    from ..models import Array, Classification
    from ..results import InferResult

PRINTED_ELEMENTS = 1000
"""Outputs larger than this are shown by their first and last elements."""


def named_file(text: str) -> tuple[str, Path]:
    """NAME=FILE.npy, split at the last "=": names may contain one."""
    name, separator, path = text.rpartition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text!r} is not NAME=FILE.npy")
    if not Path(path).is_file():
        raise click.BadParameter(f"{path!r}: there is no such file")
    return name, Path(path)


@click.command(
    short_help="One request from .npy files.",
    epilog=exit_codes(
        {
            0: "answered",
            1: "the broker or the model answered with an error, or a file could not be read or written",
            2: "wrong usage, or no connection to a broker",
        }
    ),
)
@model_argument()
@click.option(
    "--input",
    "files",
    type=named_file,
    metavar="NAME=FILE.npy",
    multiple=True,
    required=True,
    help="An input and its .npy file. Repeatable.",
)
@click.option("--output", "wanted", metavar="NAME", multiple=True, help="Ask for this output only. Repeatable. Default: all.")
@click.option(
    "--classes", type=click.IntRange(1), metavar="N", help="Show each output as its best N classes: value:index[:label]."
)
@click.option("--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Write NAME.npy per output there.")
@click.option("--model-version", type=click.IntRange(1), help="Default: the highest that is READY.")
@click.option("--timeout-s", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True, help="For the answer.")
@click.option(
    "--queue-timeout-s",
    type=click.FloatRange(0, min_open=True),
    help="For the wait in the queue alone, where the model's queue policy allows to shorten its own.",
)
@click.option("--priority", type=click.IntRange(0), default=0, help="1 is served first. Default: the model's default level.")
@address_option
@json_option
def infer(
    model: str,
    files: tuple[tuple[str, Path], ...],
    wanted: tuple[str, ...],
    classes: int | None,
    output_dir: Path | None,
    model_version: int | None,
    address: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Send MODEL one request and show its outputs, or write them to --output-dir.

    Nothing is converted: a file must have the data type and the shape of its input, batch dimension included. With --json: an
    object with model, version, outputs (name, datatype, shape, and data or, with --output-dir, file) and explain, which says
    how the request was served.
    """
    inputs = {name: read_array(path) for name, path in files}
    version = model_version or -1
    with connected(address) as client:
        outputs = _forms(client, model, version, wanted, classes)
        result = client.infer(model, inputs, outputs=outputs, version=version, explain=True, **asked)
    written = {} if output_dir is None else write_outputs(output_dir, result)
    if as_json:
        print_json(_document(model, result, written))
    else:
        _show(model, result, written)


def _forms(
    client: Client, model: str, version: int, wanted: Sequence[str], classes: int | None
) -> Sequence[str] | Mapping[str, Classification] | None:
    """The outputs to ask for; with --classes in that form, which needs all their names."""
    from ..models import Classification

    if classes is None:
        return wanted or None
    names = wanted or [output.name for output in client.model(model, version).outputs]
    return {name: Classification(classes) for name in names}


def read_array(path: Path) -> Array:
    """The array in a .npy file. Pickled objects are refused: they run code when read."""
    import numpy as np

    read: Callable[..., Array] = np.lib.format.read_array  # older releases of numpy give it no types
    try:
        with path.open("rb") as file:
            return read(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{path}: {error}") from error


def write_outputs(directory: Path, result: InferResult) -> dict[str, str]:
    """Writes NAME.npy per output (a slash in a name becomes _); returns output -> file."""
    import numpy as np

    written: dict[str, str] = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, array in result.outputs.items():
            path = directory / f"{name.replace('/', '_')}.npy"
            np.save(path, _without_objects(name, array), allow_pickle=False)
            written[name] = str(path)
    except OSError as error:
        raise CommandFailed(f"cannot write to {directory}: {error}") from error
    return written


def _without_objects(name: str, array: Array) -> Array:
    """BYTES elements as numpy's fixed-length ones, which need no pickle; those would lose zeros at an element's end."""
    if array.dtype.kind != "O":
        return array
    if any(bytes(element).endswith(b"\0") for element in array.flat):
        raise CommandFailed(f"output '{name}' has elements that end in zero bytes, which .npy cannot hold; use --json")
    return array.astype("S")


def _document(model: str, result: InferResult, written: dict[str, str]) -> dict[str, Any]:
    from ...ipc.tensors import datatype_of

    outputs = []
    for name, array in result.outputs.items():
        row: dict[str, Any] = {"name": name, "datatype": datatype_of(array), "shape": list(array.shape)}
        row |= {"file": written[name]} if name in written else {"data": _plain(array)}
        outputs.append(row)
    return {"model": model, "version": result.version, "outputs": outputs, "explain": result.explain}


def _plain(array: Array) -> Any:
    """Nested lists; bytes that are no text are written as in Python, with backslashes."""
    if array.dtype.kind == "O":
        texts = [bytes(element).decode("utf-8", "backslashreplace") for element in array.flat]
        for size in reversed(array.shape[1:]):
            texts = [texts[start : start + size] for start in range(0, len(texts), size)]  # type: ignore[misc]
        return texts
    return array.tolist()


def _show(model: str, result: InferResult, written: dict[str, str]) -> None:
    import numpy as np

    for name, array in result.outputs.items():
        click.echo(f"{name}  {array.dtype}{list(array.shape)}" + (f"  -> {written[name]}" if name in written else ""))
        if name not in written:
            click.echo(np.array2string(array, threshold=PRINTED_ELEMENTS, max_line_width=100))
    how = result.explain
    if how is not None and how.closed == "cached":
        click.echo(f"by {model}/{result.version} from the response cache")
    elif how is not None:
        copies = sum(copy.byte_size for copy in how.copies)
        click.echo(
            f"by {model}/{result.version} on {how.instance}: queued {duration(how.queue_ns)}, computed "
            f"{duration(how.compute_infer_ns)}, in a batch of {how.batch_size} ({how.closed}), {copies} bytes copied"
        )

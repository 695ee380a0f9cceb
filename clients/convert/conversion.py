# SPDX-License-Identifier: Apache-2.0
"""One conversion: writing a source in a format, comparing what it then answers, and describing it for a broker."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...ipc.errors import CallerError, Code, MachineError, ModelError, invalid
from ...ipc.tensors import FLOATING
from ..models import Array
from ..perf.inputs import INTEGERS_BELOW
from .correctness import Comparison, compare
from .entry_config import FILES, FORMS, Form, Serving, check_batching, config_text, refusal
from .repository_entry import Staging
from .samples import Samples, given_samples, random_samples
from .signatures import Arrays, Signature
from .source import Asked, Run, Say, Source
from .sources import open_source
from .tolerances import Precision, Tolerances


class Attempt(NamedTuple):
    """A format and a precision."""

    form: Form
    precision: Precision

    def __str__(self) -> str:
        return f"{self.form}-{self.precision}"


class Subject(NamedTuple):
    """A source with the requests that it has answered."""

    source: Source
    samples: Samples
    answers: tuple[Arrays, ...]
    tolerances: Tolerances


class Conversion(NamedTuple):
    """What came of an attempt: it lies in the staging directory, as a repository of one model."""

    attempt: Attempt
    repository: Path
    signature: Signature
    config: str
    converted: tuple[Comparison, ...]  # in this process; () where that cannot be

    @property
    def is_right(self) -> bool:
        """Whether every output is, as far as it could be compared."""
        return all(comparison.is_right for comparison in self.converted)


def subject_of(asked: Asked, inputs: Path | None, seed: int, tolerances: Tolerances) -> Subject:
    """Opens the source and has it answer: what lies in `inputs`, or what is made up. Raises PenstockError."""
    source = open_source(asked)
    size, names = source.max_batch_size, [tensor.name for tensor in source.inputs]
    unknown = sorted(set(asked.shapes) - set(names))
    if unknown:
        raise invalid(f"--shape names {unknown}: the inputs are {names}")
    samples = given_samples(inputs, source.inputs, size) if inputs else random_samples(source.inputs, size, asked.shapes, seed)
    answers = _asked(source, samples, is_made_up=inputs is None)
    tolerances.check_names([tensor.name for tensor in source.outputs])
    return Subject(source, samples, answers, tolerances)


def check_rows(subject: Subject) -> None:
    """Raises CallerError where a row's answer depends on the rows beside it, which a broker would take from other clients.

    Only so much as a broken model shows: a GPU rounds otherwise for another batch, and of two that are as good it may choose
    the other, so whole numbers count only where there is nothing else.
    """
    source, samples = subject.source, subject.samples
    if max(samples.rows) < 2:
        return
    largest = samples.rows.index(max(samples.rows))
    request, together = samples.requests[largest], subject.answers[largest]
    places = [slice(0, 1), slice(samples.rows[largest] - 1, samples.rows[largest])]
    alone = [source.answer({name: np.ascontiguousarray(array[rows]) for name, array in request.items()}) for rows in places]
    within = [{name: array[rows] for name, array in together.items()} for rows in places]
    outputs = [tensor for tensor in source.outputs if tensor.datatype in FLOATING] or source.outputs
    allowed = (Tolerances({}, {}), subject.tolerances)  # stricter ones are for conversions, and are not for rounding
    found = [compare(outputs, alone, within, tolerances, "fp16") for tolerances in allowed]
    wrong = [each for each, other in zip(*found, strict=True) if not each.is_right and not other.is_right]
    if wrong:
        how = wrong[0].mismatch.partition(": ")[2] or f"by up to {wrong[0].max_abs_error:.3g}"
        raise CallerError(
            f"output '{wrong[0].output}' of a row is not the same alone as in a batch of {samples.rows[largest]} ({how}), so "
            "requests cannot be batched together: say --batching none, or --max-batch-size 0, or mend the source",
            Code.UNSUPPORTED,
        )


def tried_once(subject: Subject) -> list[str]:
    """Inputs with variable dims which all requests have alike: what a conversion took for constant there is not found out."""
    requests, lead = subject.samples.requests, 1 if subject.source.max_batch_size else 0
    return [
        tensor.name
        for tensor in subject.source.inputs
        if -1 in tensor.dims and len({request[tensor.name].shape[lead:] for request in requests}) == 1
    ]


def attempts_of(source: Source, forms: Sequence[Form], precisions: Sequence[Precision]) -> list[Attempt]:
    """All that is asked for; nothing said: all that the source can be."""
    wanted = forms or [form for form in FORMS if form in source.forms]
    return [Attempt(form, precision) for form, precision in itertools.product(wanted, precisions)]


def convert(
    attempt: Attempt, subject: Subject, staging: Staging, serving: Serving, labels: Path | None, say: Say
) -> Conversion:
    """Writes, compares and describes. Raises PenstockError that names what cannot be."""
    check_batching(subject.source.max_batch_size, serving)
    refused = refusal(attempt.form, attempt.precision, serving)
    if refused is not None:
        raise refused
    try:
        return _converted(attempt, subject, staging, serving, labels, say)
    except OSError as error:
        raise MachineError(f"{attempt}: cannot write to {staging.folder}: {error.strerror or error}") from error


def _converted(
    attempt: Attempt, subject: Subject, staging: Staging, serving: Serving, labels: Path | None, say: Say
) -> Conversion:
    repository = staging.repository(str(attempt))
    path = staging.file(str(attempt), FILES[attempt.form])
    say(f"{attempt}: converting")
    written = subject.source.write(attempt.form, attempt.precision, path, say)
    comparisons: tuple[Comparison, ...] = ()
    if written.run is not None:
        say(f"{attempt}: comparing {len(subject.answers)} requests")
        found = [_answered(attempt, subject.samples, written.run, request) for request in range(len(subject.answers))]
        comparisons = compare(subject.source.outputs, subject.answers, found, subject.tolerances, attempt.precision)
    config = config_text(staging.place.name, attempt.form, attempt.precision, written.signature, serving)
    staging.describe(str(attempt), config, labels)
    return Conversion(attempt, repository, written.signature, config, comparisons)


def _asked(source: Source, samples: Samples, is_made_up: bool) -> tuple[Arrays, ...]:
    try:
        return source.ask(samples)
    except ModelError as error:
        whole = [each.name for each in source.inputs if each.datatype not in FLOATING | {"BOOL", "BYTES"}]
        if not is_made_up or not whole:
            raise
        hint = f"{', '.join(whole)}: random whole numbers from 0 to {INTEGERS_BELOW - 1}; --inputs FILE.npz gives others"
        raise ModelError(f"{error.message} ({hint})", error.code) from error


def _answered(attempt: Attempt, samples: Samples, run: Run, request: int) -> Mapping[str, Array]:
    try:
        return run(samples.requests[request])
    except ModelError as error:
        rows, example = samples.rows[request], len(next(iter(samples.example.values())))
        hint = f"; it was converted with a batch of {example}: is that written into it?" if rows not in (0, example) else ""
        raise ModelError(f"{attempt}: {error.message}{hint}", error.code) from error

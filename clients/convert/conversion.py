# SPDX-License-Identifier: Apache-2.0
"""One conversion: writing a source in a format, comparing what it then answers, and describing it for a broker."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...ipc.errors import ModelError, invalid
from ..models import Array
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
    answers = source.ask(samples)
    tolerances.check_names([tensor.name for tensor in source.outputs])
    return Subject(source, samples, answers, tolerances)


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


def _answered(attempt: Attempt, samples: Samples, run: Run, request: int) -> Mapping[str, Array]:
    try:
        return run(samples.requests[request])
    except ModelError as error:
        rows, example = samples.rows[request], len(next(iter(samples.example.values())))
        hint = f"; it was converted with a batch of {example}: is that written into it?" if rows not in (0, example) else ""
        raise ModelError(f"{attempt}: {error.message}{hint}", error.code) from error

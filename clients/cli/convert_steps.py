# SPDX-License-Identifier: Apache-2.0
"""The attempts of `penstock convert`: each is converted, served by a broker of this command's own, and compared there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...ipc.errors import PenstockError
from ..convert import speed
from ..convert.as_served import compare_served, loaded_or_raise
from ..convert.conversion import Attempt, Subject, attempts_of, convert
from ..convert.correctness import Comparison
from ..convert.entry_config import Form, Serving
from ..convert.report import Verdict, best
from ..convert.repository_entry import CONFIG_NAME, Place, Staging
from ..convert.tolerances import Precision
from .connecting import connected
from .failures import CommandFailed, failing_as
from .own_broker import own_broker

Say = Callable[[str], None]


class Steps:
    """What all attempts have in common."""

    def __init__(self, subject: Subject, staging: Staging, serving: Serving, labels: Path | None, say: Say) -> None:
        self._subject = subject
        self._staging = staging
        self._serving = serving
        self._labels = labels
        self._say = say

    def __repr__(self) -> str:
        return f"<Steps in {self._staging!r}>"

    def check_invariants(self) -> None:
        """There is something to compare with."""
        assert self._subject.answers, self

    def one(self, form: Form, precision: Precision, is_served: bool) -> Verdict:
        """One attempt; what fails is raised."""
        verdict = Verdict(attempt=Attempt(form, precision))
        self._convert(verdict)
        if is_served and verdict.conversion is not None and verdict.conversion.is_right:
            self._serve(verdict, None)
        return verdict

    def search(
        self, forms: Sequence[Form], precisions: Sequence[Precision], interval_ms: int
    ) -> tuple[list[Verdict], Verdict | None]:
        """All attempts, those that fail with the reason, and the best of them."""
        verdicts = []
        for attempt in attempts_of(self._subject.source, forms, precisions):
            verdict = Verdict(attempt=attempt)
            try:
                self._convert(verdict)
                if verdict.conversion is not None and verdict.conversion.is_right:
                    self._serve(verdict, interval_ms)
            except (PenstockError, CommandFailed) as error:
                verdict.error = error.message
                self._say(f"{attempt}: {error.message}")
            verdicts.append(verdict)
        return verdicts, best(verdicts)

    def _convert(self, verdict: Verdict) -> None:
        verdict.conversion = convert(
            verdict.attempt, self._subject, self._staging, self._serving, self._labels, self._say
        )  # fmt: skip
        self._staging.check_config(verdict.conversion.config)

    def _serve(self, verdict: Verdict, interval_ms: int | None) -> None:
        """Serves it, and measures it where an interval is said."""
        attempt, conversion, place, subject = verdict.attempt, verdict.conversion, self._staging.place, self._subject
        assert conversion is not None
        self._say(f"{attempt}: comparing as served")
        with own_broker(conversion.repository) as (local, _), connected(local) as client:
            loaded_or_raise(client, place.name, place.version)
            verdict.served = compare_served(
                client, place.name, place.version, conversion.signature, subject.samples, subject.answers, subject.tolerances,
                attempt.precision,
            )  # fmt: skip
            if interval_ms is not None and verdict.is_right:
                self._say(f"{attempt}: measuring")
                verdict.speed = speed.fastest(
                    client, place.name, place.version, subject.source.used_shapes, interval_ms, self._say
                )  # fmt: skip


def load_and_compare(
    address: str | None, place: Place, directory: Path, verdict: Verdict, subject: Subject, say: Say
) -> tuple[Comparison, ...]:
    """Loads the entry into the broker that runs, and compares there. Raises CommandFailed."""
    say(f"{verdict.attempt}: loading into the broker that runs")
    try:
        return _load_and_compare(address, place, directory, verdict, subject)
    except CommandFailed as error:
        raise type(error)(f"{directory} was written, but not loaded: {error.message}") from error


def _load_and_compare(
    address: str | None, place: Place, directory: Path, verdict: Verdict, subject: Subject
) -> tuple[Comparison, ...]:
    """A broker that serves other repositories is given what Load can carry."""
    conversion = verdict.conversion
    assert conversion is not None
    with failing_as(CommandFailed), connected(address) as client:
        if str(place.repository) in client.status()["repositories"]:
            client.load(place.name)
        else:
            client.load(place.name, conversion.config, _carried(place, directory))
        loaded_or_raise(client, place.name, place.version)
        return compare_served(
            client, place.name, place.version, conversion.signature, subject.samples, subject.answers, subject.tolerances,
            verdict.attempt.precision,
        )  # fmt: skip


def _carried(place: Place, directory: Path) -> dict[str, bytes]:
    """The files of the version, and the labels, under the names that Load has for them."""
    beside = [path for path in place.directory.iterdir() if path.is_file() and path.name != CONFIG_NAME]
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {f"file:{path.relative_to(place.directory).as_posix()}": path.read_bytes() for path in [*files, *beside]}

# SPDX-License-Identifier: Apache-2.0
"""The two demonstrations: several calls of one detector at once, and what the broker counted of them.

one model, as it is configured       demonstrate
the same with 1, 2, 3... instances   sweep: loads a variant, demonstrates, loads the next
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ...ipc.errors import CallerError, Code, ModelError
from ..client import Client
from ..models import ModelInfo
from .calling import Callers, Floats, Round, bytes_for
from .counting import difference
from .layout import DetectorTensors
from .memory import Memory, registered
from .variants import variant

USUAL_NAME = "peoplenet"


class Plan(NamedTuple):
    """How a model is called."""

    image: Floats  # IMAGE_SHAPE
    memory: Memory
    callers: int
    warm_up: int  # rounds that are not counted


class Demonstrated(NamedTuple):
    """A round, and what there is to say of it."""

    model: ModelInfo
    memory: Memory
    dynamic_batching: bool
    workers: list[dict[str, Any]]  # of the model, as `penstock status --json` has them
    region: dict[str, Any]  # the callers' memory, as `penstock regions --json` has it
    counted: dict[str, Any]  # an element of Triton's model_stats: this round alone
    round: Round

    @property
    def instances(self) -> int:
        """Of the model; on a GPU several may share a worker."""
        return sum(len(row["lanes"]) for row in self.workers)


def find_detector(client: Client, name: str | None) -> tuple[ModelInfo, DetectorTensors]:
    """The model of that name; without one `peoplenet`, or else the only detector there is.

    Raises CallerError for a model of another layout, and where there is none or a choice; ModelError for one that is not ready.
    """
    index = client.index()
    known = sorted({row["name"] for row in index})
    if name is None and USUAL_NAME not in known:
        found = [fitting for each in known if client.is_ready(each) and (fitting := _fitting(client.model(each))) is not None]
        if len(found) != 1:
            fits = ", ".join(model.name for model, _ in found) or "none"
            raise CallerError(
                f"no model is called '{USUAL_NAME}', and of {', '.join(known) or 'no models'} not one alone has the layout of "
                f"PeopleNet (those that have: {fits}): name the model",
                Code.NOT_FOUND,
            )
        return found[0]
    wanted = name or USUAL_NAME
    for row in index:
        if row["name"] == wanted and not client.is_ready(wanted):
            raise ModelError(f"model '{wanted}' is {row['state']}: {row['reason']}", Code.UNAVAILABLE)
    model = client.model(wanted)
    return model, DetectorTensors.of(model)


def _fitting(model: ModelInfo) -> tuple[ModelInfo, DetectorTensors] | None:
    try:
        return model, DetectorTensors.of(model)
    except CallerError:  # of another layout
        return None


def demonstrate(client: Client, model: ModelInfo, tensors: DetectorTensors, plan: Plan) -> Demonstrated:
    """Calls the model: rounds to warm up, then the one that counts."""
    with registered(client, plan.memory, bytes_for(plan.callers)) as region:
        callers = Callers(client, model, tensors, region, plan.callers)
        callers.show(plan.image)
        for _ in range(plan.warm_up):
            callers.call()
        before = _statistics(client, model)
        called = callers.call()
        counted = difference(_statistics(client, model), before)
        known = next(row for row in client.regions() if row["name"] == region.name)
    workers = [row for row in client.status()["instances"] if row["model"] == model.name]
    return Demonstrated(model, plan.memory, "dynamic_batching" in client.config(model.name), workers, known, counted, called)


def sweep(
    client: Client, model: ModelInfo, tensors: DetectorTensors, plan: Plan, counts: Iterable[int], batching: bool | None
) -> Iterator[tuple[int, Demonstrated]]:
    """Demonstrates the model with each of these instance counts, as they are measured; it stays loaded with the last."""
    config = client.config(model.name)
    for count in counts:
        client.load(model.name, variant(config, count, batching))
        yield count, demonstrate(client, client.model(model.name), tensors, plan)


def _statistics(client: Client, model: ModelInfo) -> dict[str, Any]:
    (found,) = client.statistics(model.name, model.version)["model_stats"]
    counted: dict[str, Any] = found
    return counted

# SPDX-License-Identifier: Apache-2.0
"""The documents a client may ask for. Each is plain data: maps, lists, numbers, text."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..ipc.errors import ModelError, invalid
from ..ipc.messages import Query, TensorSpec
from .control import require_owner
from .metrics.families import Documents
from .models import UNLOADED, ServedModel
from .shared_regions import user_of

if TYPE_CHECKING:
    from .core import Core
    from .sessions import Session


class Queries:
    """Answers Query messages from the broker's own state."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._answers: dict[str, Callable[[Session, Query], Any]] = {
            "metadata": self._metadata,
            "ready": self._ready,
            "config": self._config,
            "statistics": self._statistics,
            "stages": self._stages,
            "index": self._index,
            "regions": self._regions,
            "shared_regions": self._shared_regions,
            "status": self._status,
            "trace_start": self._trace_start,
            "trace": self._trace,
            "trace_stop": self._trace_stop,
            "gateway": self._gateway,
            "trace_claim": self._trace_claim,
            "stop": self._stop,
        }

    def __repr__(self) -> str:
        return f"<Queries {sorted(self._answers)}>"

    def answer(self, session: Session, query: Query) -> Any:
        """The document asked for. Raises CallerError for an unknown one, and what finding the model raises."""
        try:
            make = self._answers[query.what]
        except KeyError:
            raise invalid(f"unknown query {query.what!r}; known are {', '.join(sorted(self._answers))}") from None
        return make(session, query)

    def exposed(self) -> Documents:
        """What metrics are made of, as of now."""
        everything = Query(0, "statistics")
        session: Any = None  # none of these depends on who asks
        statistics = self._statistics(session, everything)["model_stats"]
        tags = {model.label: model.config.metric_tags for model in self._core.models.current()}
        return Documents(self._status(session, everything), statistics, self._stages(session, everything), tags)

    def _model(self, query: Query) -> ServedModel:
        return self._core.models.find(query.model, query.version)

    def _metadata(self, _session: Session, query: Query) -> dict[str, Any]:
        """KServe's model metadata, max_batch_size, and which inputs are optional; shapes carry the batch dimension as -1."""
        model = self._model(query)
        if not model.accepts:
            raise model.unavailable()
        batch = [-1] if model.batches else []
        return {
            "name": model.name,
            "versions": [str(other.version) for other in self._core.models.versions(model.name) if other.accepts],
            "version": str(model.version),
            "platform": model.config.platform or model.config.backend,
            "max_batch_size": model.spec.max_batch_size,
            "inputs": [_tensor(spec, batch) for spec in model.spec.inputs],
            "outputs": [_tensor(spec, batch) for spec in model.spec.outputs],
        }

    def _ready(self, _session: Session, query: Query) -> dict[str, Any]:
        """Whether one model version, or (no name) the broker with all its models, is ready; and why not.

        Triton's strict readiness: what was unloaded on purpose, or never loaded, is nobody's fault. Of the broker also whether
        it is `up`, which is Triton's readiness where it is not strict.
        """
        core = self._core
        if query.model:
            try:
                model = self._model(query)
            except ModelError as error:  # unloaded, or not to be loaded
                return {"ready": False, "reason": error.message}
            reason = model.reason or model.state.value if not model.is_ready else ""
            return {"ready": model.is_ready, "reason": reason}
        if core.stopping or not core.surveys.has_begun:
            return {"ready": False, "reason": "stopping" if core.stopping else "loading", "up": False}
        waiting = [row for row in core.models.summary() if not (row["state"] in ("", "READY") or row["reason"] == UNLOADED)]
        down = [model.label for model in core.models.current() if model.accepts and not model.is_ready]
        reasons = [f"{row['name']}: {row['state']} {row['reason']}".strip() for row in waiting]
        reasons += [f"{label}: no instance is up" for label in down]
        return {"ready": not reasons, "reason": "; ".join(reasons), "up": True}

    def _config(self, _session: Session, query: Query) -> Any:
        """The completed configuration, as Triton's JSON."""
        return self._model(query).config.to_json()

    def _statistics(self, _session: Session, query: Query) -> dict[str, Any]:
        """Triton's statistics document: one model version, all versions of a model, or everything that is READY."""
        return {"model_stats": [m.record.statistics.to_json(m.name, str(m.version)) for m in self._chosen(query)]}

    def _stages(self, _session: Session, query: Query) -> list[dict[str, Any]]:
        """Histograms per stage, why batches closed, what was copied, and how long loading took."""
        return [{"name": model.name, "version": str(model.version), **model.record.stages()} for model in self._chosen(query)]

    def _chosen(self, query: Query) -> list[ServedModel]:
        if query.model and query.version >= 0:
            return [self._model(query)]
        if query.model:
            return self._core.models.versions(query.model)
        return [model for model in self._core.models.current() if model.accepts]

    def _index(self, _session: Session, _query: Query) -> list[dict[str, Any]]:
        return self._core.models.summary()

    def _regions(self, session: Session, _query: Query) -> list[dict[str, Any]]:
        """The asking session's regions and those shared for its user; for the broker's own uid everybody's, with owners."""
        own = user_of(session, -1)
        shared = {region.number: uid for uid, region in self._core.shared}
        if own != os.geteuid():
            mine = [*session.regions, *(region for uid, region in self._core.shared if uid == own)]
            return [{**region.describe(), "session": None, "pid": None, "uid": shared.get(region.number)} for region in mine]
        owned = [
            {**region.describe(), "session": other.number, "pid": other.peer.pid if other.peer else None, "uid": None}
            for other in self._core.reception.sessions.values()
            for region in other.regions
        ]
        ownerless = [region for region in self._core.regions if region.closing or region.number in shared]
        return owned + [
            {**region.describe(), "session": None, "pid": None, "uid": shared.get(region.number)} for region in ownerless
        ]

    def _shared_regions(self, session: Session, query: Query) -> list[dict[str, Any]]:
        """The regions that are shared for a user, as Triton's status knows them, whatever their kind; see shared_regions.py."""
        return self._core.shared.describe(user_of(session, query.on_behalf))

    def _status(self, _session: Session, _query: Query) -> dict[str, Any]:
        """`resources` is there only with the rate limiter; `gpus` is nil as long as nothing needed to know."""
        core = self._core
        limiter = {"resources": core.scheduler.resources()} if core.settings.rate_limit else {}
        gpus = core.gpu_survey.found
        return {
            "pid": os.getpid(),
            "addresses": list(core.settings.addresses),
            "repositories": list(core.settings.repositories),
            "ready": self._ready(_session, Query(0, "ready"))["ready"],
            "stopping": core.stopping,
            "models": core.models.summary(),
            "queued": {model.label: core.scheduler.queued(model.number) for model in core.models.current() if model.accepts},
            "queued_by_level": {
                model.label: {str(level): count for level, count in found.items()}
                for model in core.models.current()
                if model.accepts and (found := core.scheduler.queued_by_level(model.number))
            },
            "loads": core.loads.describe(),
            "instances": [instance.describe() for instance in core.fleet.instances.values()],
            "gpus": None if gpus is None else [gpu._asdict() for gpu in gpus.found],
            "gateways": core.gateways.describe(core.reception.sessions.values()),
            "sessions": [session.describe() for session in core.reception.sessions.values()],
            "regions": len(core.regions),
            "region_bytes": sum(region.byte_size for region in core.regions),
            "cache": core.cache.describe(),
            "mps": core.fleet.mps.describe(),
            "bad_messages": core.reception.bad_messages,
            **limiter,
        }

    def _trace_start(self, session: Session, query: Query) -> dict[str, Any]:
        """The asking session records from now on what becomes of requests for a model (no name: for all); see tracing.py."""
        require_owner(session, "trace this broker")
        if query.model:
            self._model(query)
        self._core.traces.start(session, query.model)
        return {"now_ns": self._core.clock()}

    def _trace(self, session: Session, _query: Query) -> dict[str, Any]:
        return self._core.traces.take(session)

    def _trace_stop(self, session: Session, _query: Query) -> dict[str, Any]:
        return self._core.traces.stop(session)

    def _gateway(self, session: Session, _query: Query) -> dict[str, Any]:
        """The asking session is a gateway's, and serves from now on. It is told of the settings that all gateways share."""
        require_owner(session, "be a gateway of this broker")
        session.is_gateway = True
        self._core.gateways.serves(session)
        self._core.adjustments.tell(session)
        return {}

    def _trace_claim(self, session: Session, query: Query) -> dict[str, int] | None:
        """A gateway is to write the trace of a request that it has sampled: under which id, into which file; nil: it is not."""
        claim = self._core.adjustments.claim(session, query.model)
        return None if claim is None else claim._asdict()

    def _stop(self, session: Session, _query: Query) -> dict[str, Any]:
        require_owner(session, "stop this broker")
        self._core.stopping = True
        return {"pid": os.getpid()}


def _tensor(spec: TensorSpec, batch: list[int]) -> dict[str, Any]:
    optional = {"optional": True} if spec.optional else {}
    return {"name": spec.name, "datatype": spec.datatype, "shape": batch + spec.dims, **optional}

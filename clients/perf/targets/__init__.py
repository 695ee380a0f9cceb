# SPDX-License-Identifier: Apache-2.0
"""What can be measured, a file for each kind of link. Imported when it is used: tritonclient is an extra."""

from __future__ import annotations

from ..target import Target, TargetSpec


def open_target(spec: TargetSpec) -> Target:
    """A connection to what the spec names. Raises PenstockError."""
    if spec.link == "http":
        from .kserve_http import open_kserve_http

        return open_kserve_http(spec)
    if spec.link == "grpc":
        from .kserve_grpc import open_kserve_grpc

        return open_kserve_grpc(spec)
    from .own import OwnTarget

    return OwnTarget.open(spec)

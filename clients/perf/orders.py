# SPDX-License-Identifier: Apache-2.0
"""What client processes are told, as pickles over a socket, and in this order.

A TargetSpec; then for each point Prepare, any number of WarmUp and Stint (load.py), Release. Each is answered by a Load, by
None, or by the PenstockError that ends the process.
"""

from __future__ import annotations

from typing import NamedTuple

from .arrivals import Share
from .plan import Plan, Point


class Prepare(NamedTuple):
    """Make the requests of this share of a point."""

    plan: Plan
    point: Point
    share: Share


class WarmUp(NamedTuple):
    """Send so many, uncounted."""

    requests: int


class Release(NamedTuple):
    """Give the requests back: the point has been measured."""

# SPDX-License-Identifier: Apache-2.0
"""Optimization profiles: which shapes an engine takes, and which profile is the best for a batch. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ....ipc.errors import PenstockError, invalid

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]
"""The shapes of all inputs of an execution, in the order of the model's inputs."""

REMEMBERED = 4096
"""So many choices are remembered; a model that sees more shapes than that has them made again."""


class Range(NamedTuple):
    """The shapes of one input that a profile takes, and the one that its kernels were tuned for."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def takes(self, shape: Shape) -> bool:
        """Whether it lies within."""
        return len(shape) == len(self.minimum) and all(
            low <= size <= high for low, size, high in zip(self.minimum, shape, self.maximum, strict=True)
        )

    def __str__(self) -> str:
        low, high = list(self.minimum), list(self.maximum)
        return str(low) if low == high else f"{low} to {high}"


class Profile(NamedTuple):
    """One optimization profile: a range for each input, in the order of the model's inputs."""

    number: int
    ranges: tuple[Range, ...]

    def takes(self, shapes: Shapes) -> bool:
        """Whether every shape lies within its range."""
        return all(extent.takes(shape) for extent, shape in zip(self.ranges, shapes, strict=True))

    def distance(self, shapes: Shapes) -> int:
        """How far the shapes are from those that its kernels were tuned for (Triton: the Manhattan distance to opt)."""
        return sum(
            abs(size - best)
            for extent, shape in zip(self.ranges, shapes, strict=True)
            for size, best in zip(shape, extent.optimum, strict=True)
        )

    @property
    def max_rows(self) -> int:
        """The largest batch: the smallest first dimension that all inputs can reach."""
        return min((extent.maximum[0] for extent in self.ranges if extent.maximum), default=0)


class Profiles:
    """The profiles of an instance. One serves each batch, and which one is decided once for each combination of shapes."""

    def __init__(self, names: Sequence[str], profiles: Sequence[Profile]) -> None:
        self._names = tuple(names)
        self.all = tuple(profiles)
        #: shapes -> the profile for them
        self._chosen: dict[Shapes, Profile] = {}

    def __repr__(self) -> str:
        return f"<Profiles {[profile.number for profile in self.all]}, {len(self._chosen)} choices remembered>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a batch was given to a profile that does not take it."""
        assert all(profile in self.all and profile.takes(shapes) for shapes, profile in self._chosen.items()), repr(self)
        assert len(self._chosen) <= REMEMBERED, repr(self)

    def best(self, shapes: Shapes) -> Profile | None:
        """Of the profiles that take the shapes, the nearest; None where there is none."""
        fitting = [profile for profile in self.all if profile.takes(shapes)]
        return min(fitting, key=lambda profile: profile.distance(shapes), default=None)

    def choose(self, shapes: Shapes) -> Profile:
        """As `best`, remembered. Raises INVALID_ARG that names the shapes and what would be taken."""
        chosen = self._chosen.get(shapes)
        if chosen is None:
            chosen = self.best(shapes)
            if chosen is None:
                raise self._not_taken(shapes)
            if len(self._chosen) == REMEMBERED:
                self._chosen.clear()
            self._chosen[shapes] = chosen
        return chosen

    @property
    def max_rows(self) -> int:
        """The largest batch that any of them takes."""
        return max(profile.max_rows for profile in self.all)

    def described(self) -> list[str]:
        """A line for each."""
        return [f"profile {profile.number}: {self._text(profile)}" for profile in self.all]

    def _not_taken(self, shapes: Shapes) -> PenstockError:
        given = ", ".join(f"{name} {list(shape)}" for name, shape in zip(self._names, shapes, strict=True))
        return invalid(f"no optimization profile of this instance takes {given}; {'; '.join(self.described())}")

    def _text(self, profile: Profile) -> str:
        return ", ".join(f"{name} {extent}" for name, extent in zip(self._names, profile.ranges, strict=True))

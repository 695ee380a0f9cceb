# SPDX-License-Identifier: Apache-2.0
"""What a pedestrian may look like: build, pose, clothing, hair, skin, and what they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .shapes import Colour

View = Literal["front", "back", "side"]

SKIN = ((0.96, 0.82, 0.71), (0.89, 0.70, 0.56), (0.78, 0.57, 0.42), (0.60, 0.41, 0.28), (0.42, 0.28, 0.19), (0.30, 0.20, 0.14))
HAIR = ((0.08, 0.06, 0.05), (0.20, 0.12, 0.07), (0.38, 0.23, 0.11), (0.72, 0.55, 0.28), (0.60, 0.60, 0.60), (0.45, 0.16, 0.08))
LEATHER = (
    (0.10, 0.10, 0.11),
    (0.35, 0.20, 0.10),
    (0.55, 0.35, 0.18),
    (0.60, 0.10, 0.12),
    (0.12, 0.20, 0.38),
    (0.75, 0.68, 0.55),
)
DENIM = ((0.13, 0.18, 0.30), (0.25, 0.34, 0.50), (0.10, 0.10, 0.12), (0.45, 0.40, 0.32), (0.30, 0.31, 0.33), (0.66, 0.60, 0.48))


@dataclass(frozen=True)
class Look:
    """Everything about a pedestrian but where they are."""

    view: View
    build: float  # widths, about 1
    stride: float  # half the distance between the feet, in profile
    swing: float  # of the arms, -1 to 1
    skin: Colour
    hair: Colour
    top: Colour
    legs: Colour
    shoes: Colour
    garment: Literal["trousers", "shorts", "skirt", "coat"]
    head: Literal["short hair", "long hair", "bald", "hat"]
    bare_arms: bool
    striped: bool
    phone: bool  # held to the ear
    bag: Literal["", "backpack", "handbag", "shoulder bag", "suitcase", "shopping"]
    bag_colour: Colour
    bag_side: float  # -1 or 1

    @classmethod
    def drawn_by(cls, random: np.random.Generator) -> Look:
        """One of very many."""
        vivid = random.random(3) * random.uniform(0.4, 1.0)
        grey = np.full(3, random.uniform(0.05, 0.95))
        top = vivid if random.random() < 0.6 else 0.7 * grey + 0.3 * vivid
        legs = np.array(DENIM[random.integers(len(DENIM))]) if random.random() < 0.75 else random.random(3)
        return cls(
            view=random.choice(["front", "back", "side"], p=[0.42, 0.26, 0.32]),
            build=random.uniform(0.85, 1.3),
            stride=random.uniform(0.02, 0.17),
            swing=random.uniform(-1, 1),
            skin=np.array(SKIN[random.integers(len(SKIN))]) * random.uniform(0.9, 1.05),
            hair=HAIR[random.integers(len(HAIR))],
            top=top,
            legs=legs * random.uniform(0.7, 1.3),
            shoes=np.full(3, random.choice([0.06, 0.25, 0.9])) * random.uniform(0.7, 1.0, 3),
            garment=random.choice(["trousers", "shorts", "skirt", "coat"], p=[0.55, 0.13, 0.14, 0.18]),
            head=random.choice(["short hair", "long hair", "bald", "hat"], p=[0.45, 0.33, 0.07, 0.15]),
            bare_arms=random.random() < 0.4,
            striped=random.random() < 0.15,
            phone=random.random() < 0.1,
            bag=random.choice(
                ["", "backpack", "handbag", "shoulder bag", "suitcase", "shopping"], p=[0.34, 0.16, 0.15, 0.14, 0.11, 0.10]
            ),
            bag_colour=np.array(LEATHER[random.integers(len(LEATHER))]) if random.random() < 0.6 else random.random(3),
            bag_side=random.choice([-1.0, 1.0]),
        )

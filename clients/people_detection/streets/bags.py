# SPDX-License-Identifier: Apache-2.0
"""What pedestrians carry."""

from __future__ import annotations

import numpy as np

from .figures import Figure, Point
from .looks import Look


def backpack(figure: Figure, look: Look) -> None:
    """As it is seen from behind and from the side."""
    colour = np.asarray(look.bag_colour)
    if look.view == "side":
        corners = [(-0.125, 0.79), (-0.06, 0.80), (-0.06, 0.57), (-0.135, 0.57)]
        pocket = [(-0.150, 0.66), (-0.115, 0.66), (-0.115, 0.58), (-0.150, 0.58)]
    else:
        corners = [(-0.075, 0.80), (0.075, 0.80), (0.085, 0.57), (-0.085, 0.57)]
        pocket = [(-0.055, 0.67), (0.055, 0.67), (0.055, 0.59), (-0.055, 0.59)]
    figure.polygon(corners, 0.020, colour, "bag")
    figure.polygon(pocket, 0.010, colour * 0.7, "bag")


def straps(figure: Figure, look: Look) -> None:
    """All that is seen of a backpack from in front, and no bag to be found."""
    for side in (-0.06, 0.06):
        figure.limb((side, 0.83), (side * 1.1, 0.64), (0.010, 0.010), look.bag_colour)


def in_hand(figure: Figure, look: Look, hand: Point) -> None:
    """A handbag or shopping, held in the hand."""
    x, up = hand
    wide, high = (0.065, 0.10) if look.bag == "handbag" else (0.06, 0.15)
    colour = np.asarray(look.bag_colour)
    for side in (-0.6, 0.6):
        figure.limb((x, up), (x + side * wide, up - 0.06), (0.005, 0.005), colour * 0.8, "bag")
    lower = wide * (1.1 if look.bag == "handbag" else 0.95)
    corners = [(x - wide, up - 0.06), (x + wide, up - 0.06), (x + lower, up - 0.06 - high), (x - lower, up - 0.06 - high)]
    figure.polygon(corners, 0.008, colour, "bag")
    figure.limb((x - wide * 0.6, up - 0.085), (x + wide * 0.6, up - 0.085), (0.006, 0.006), colour * 0.6, "bag")


def shoulder_bag(figure: Figure, look: Look) -> None:
    """On a strap, at the hip."""
    side = look.bag_side if look.view != "side" else 0.25
    x = side * 0.10 * look.build
    colour = np.asarray(look.bag_colour)
    figure.limb((-x * 0.7, 0.82), (x, 0.60), (0.007, 0.007), colour * 0.7)
    figure.polygon([(x - 0.06, 0.60), (x + 0.06, 0.60), (x + 0.065, 0.49), (x - 0.065, 0.49)], 0.012, colour, "bag")
    figure.polygon([(x - 0.06, 0.605), (x + 0.06, 0.605), (x + 0.055, 0.55), (x - 0.055, 0.55)], 0.010, colour * 0.8, "bag")


def suitcase(figure: Figure, look: Look) -> None:
    """On wheels, beside its owner."""
    x = -0.24 if look.view == "side" else look.bag_side * 0.22
    colour = np.asarray(look.bag_colour)
    for side in (-0.03, 0.03):
        figure.limb((x + side, 0.33), (x + side, 0.46), (0.004, 0.004), (0.35,) * 3, "bag")
    figure.limb((x - 0.03, 0.46), (x + 0.03, 0.46), (0.007, 0.007), (0.1,) * 3, "bag")
    figure.polygon([(x - 0.075, 0.33), (x + 0.075, 0.33), (x + 0.075, 0.03), (x - 0.075, 0.03)], 0.015, colour, "bag")
    for rib in (-0.04, 0.0, 0.04):
        figure.limb((x + rib, 0.31), (x + rib, 0.05), (0.004, 0.004), colour * 0.75, "bag")
    for wheel in (-0.06, 0.06):
        figure.ellipse((x + wheel, 0.012), (0.014, 0.014), (0.08,) * 3, "bag")

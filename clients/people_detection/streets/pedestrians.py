# SPDX-License-Identifier: Apache-2.0
"""Pedestrians, drawn from what is farthest from the viewer to what is nearest."""

from __future__ import annotations

import numpy as np

from .bags import backpack, in_hand, shoulder_bag, straps, suitcase
from .figures import Figure, Point
from .looks import Look


def draw_pedestrian(figure: Figure, look: Look) -> None:
    """Somebody of that look, and what they carry, over what is on the figure's canvas."""
    profile = look.view == "side"
    figure.shadow()
    if look.bag == "suitcase":
        suitcase(figure, look)
    _arm(figure, look, -1, 0.75 if profile else 1.0)
    _leg(figure, look, -1, 0.75 if profile else 1.0)
    _leg(figure, look, 1, 1.0)
    if look.bag == "backpack" and profile:
        backpack(figure, look)
    _torso(figure, look)
    _head(figure, look)
    if look.bag == "backpack" and not profile:
        (straps if look.view == "front" else backpack)(figure, look)
    _arm(figure, look, 1, 1.0)
    if look.bag in ("handbag", "shopping"):
        in_hand(figure, look, _hand(look, -1 if look.phone else 1)[2])
    elif look.bag == "shoulder bag":
        shoulder_bag(figure, look)


def _leg(figure: Figure, look: Look, side: int, light: float) -> None:
    wide = look.build
    if look.view == "side":
        hip, knee, ankle = (0.0, 0.52), (side * look.stride * 0.6 + 0.025, 0.285), (side * look.stride, 0.045)
        toes = (ankle[0] + 0.055, 0.018)
    else:
        lifted = max(0.0, side * look.swing) * 0.05
        hip, knee, ankle = (side * 0.045 * wide, 0.52), (side * 0.055 * wide, 0.285), (side * 0.058 * wide, 0.045 + lifted)
        toes = (ankle[0] + side * 0.015, 0.018 + lifted)
    cloth = np.asarray(look.legs) * light
    skin = np.asarray(look.skin) * light
    bare = look.garment in ("shorts", "skirt")
    figure.limb(knee, ankle, (0.036 * wide, 0.024 * wide), skin if bare else cloth)
    figure.limb(hip, knee, (0.056 * wide, 0.040 * wide), skin if look.garment == "skirt" else cloth)
    figure.limb((ankle[0], 0.018 + ankle[1] - 0.045), toes, (0.024, 0.020), np.asarray(look.shoes) * light)


def _torso(figure: Figure, look: Look) -> None:
    wide = look.build
    shoulder, waist, hip = (0.062, 0.058, 0.062) if look.view == "side" else (0.098, 0.078, 0.082)
    shade = figure.stripes() if look.striped else None
    if look.garment == "skirt":
        hem = (hip + 0.035) * wide
        corners = [(-waist * wide, 0.60), (waist * wide, 0.60), (hem, 0.33), (-hem, 0.33)]
        figure.polygon(corners, 0.008, look.legs)
    bottom = 0.34 if look.garment == "coat" else 0.50
    flare = hip * (1.15 if look.garment == "coat" else 1.0) * wide
    figure.limb((0.005, 0.80), (0.01, 0.89), (0.032, 0.030), look.skin)
    figure.polygon(
        [(-waist * wide, 0.66), (waist * wide, 0.66), (flare, bottom), (-flare, bottom)],
        0.012,
        look.top,
        shade=shade,
    )
    chest = [(-shoulder * wide, 0.815), (shoulder * wide, 0.815), (waist * wide, 0.60), (-waist * wide, 0.60)]
    figure.polygon(chest, 0.022, look.top, shade=shade)


def _head(figure: Figure, look: Look) -> None:
    profile = look.view == "side"
    hair = look.skin if look.head == "bald" else look.hair
    back = -0.008 if profile else 0.0
    if look.head == "long hair":
        behind = -0.030 if profile else 0.0
        figure.limb((behind, 0.93), (behind, 0.84), (0.052, 0.050 if look.view == "back" else 0.045), hair)
    figure.ellipse((back, 0.938), (0.055, 0.062), hair)
    if look.view != "back":
        _face(figure, look, profile)
    if look.head == "hat":
        brim = 0.075 if profile else 0.062
        figure.polygon([(-0.05, 0.992), (0.05, 0.992), (0.055, 0.955), (-0.055, 0.955)], 0.006, look.bag_colour)
        figure.limb((-0.05, 0.955), (brim, 0.953), (0.007, 0.006), look.bag_colour)


def _face(figure: Figure, look: Look, profile: bool) -> None:
    centre = 0.018 if profile else 0.0
    figure.ellipse((centre, 0.925), (0.040 if profile else 0.046, 0.054), look.skin, "face")
    if profile:
        figure.limb((0.052, 0.930), (0.062, 0.920), (0.007, 0.008), look.skin, "face")
    dark, lips = np.asarray(look.skin) * 0.25, np.asarray(look.skin) * (0.75, 0.45, 0.45)
    for eye in (0.036,) if profile else (-0.019, 0.019):
        figure.ellipse((eye, 0.936), (0.007, 0.005), dark, "face")
        figure.limb((eye - 0.009, 0.948), (eye + 0.009, 0.948), (0.0025, 0.0025), dark, "face")
    if not profile:
        figure.limb((0.002, 0.928), (0.003, 0.913), (0.004, 0.006), np.asarray(look.skin) * 0.88, "face")
    mouth = 0.040 if profile else 0.0
    figure.limb((mouth - 0.013, 0.896), (mouth + 0.013, 0.896), (0.004, 0.004), lips, "face")


def _hand(look: Look, side: int) -> tuple[Point, Point, Point]:
    """Shoulder, elbow and hand of an arm."""
    if look.phone and side == 1:
        out = 0.06 if look.view == "side" else 0.155 * look.build
        return ((0.0 if look.view == "side" else 0.105 * look.build, 0.80), (out, 0.68), (0.058, 0.89))
    if look.view == "side":
        turned = side * look.swing * 0.5
        elbow = (np.sin(turned) * 0.17, 0.80 - np.cos(turned) * 0.17)
        return ((0.0, 0.80), elbow, (elbow[0] + np.sin(turned + 0.3) * 0.17, elbow[1] - np.cos(turned + 0.3) * 0.17))
    shoulder = side * 0.105 * look.build
    return ((shoulder, 0.80), (shoulder + side * 0.03, 0.635), (shoulder + side * (0.03 - 0.02 * look.swing), 0.475))


def _arm(figure: Figure, look: Look, side: int, light: float) -> None:
    wide = look.build**0.5
    shoulder, elbow, hand = _hand(look, side)
    sleeve, skin = np.asarray(look.top) * light * 0.94, np.asarray(look.skin) * light
    figure.limb(elbow, hand, (0.027 * wide, 0.020 * wide), skin if look.bare_arms else sleeve)
    figure.limb(shoulder, elbow, (0.036 * wide, 0.029 * wide), sleeve)
    figure.ellipse(hand, (0.021, 0.024), skin)
    if look.phone and side == 1:
        figure.limb((hand[0] - 0.01, hand[1] + 0.02), (hand[0] - 0.01, hand[1] - 0.015), (0.008, 0.008), (0.05,) * 3)

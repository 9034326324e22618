"""Colours of drawn figures, as a witness would say them, in changed light; none where unsure."""

from __future__ import annotations

import numpy as np
import pytest

from services.detect.colours import ColourVotes, light
from services.detect.detector import Found, Picture
from shared.sightings import Colour, Colours

PAINTS = {
    Colour.BLACK: (22, 22, 24),
    Colour.WHITE: (236, 236, 232),
    Colour.GREY: (128, 128, 130),
    Colour.RED: (190, 30, 35),
    Colour.ORANGE: (230, 120, 30),
    Colour.YELLOW: (225, 205, 45),
    Colour.GREEN: (45, 130, 60),
    Colour.BLUE: (40, 70, 170),
    Colour.PURPLE: (110, 50, 160),
    Colour.PINK: (235, 120, 170),
    Colour.BROWN: (105, 65, 35),
}
PERSON = Found("person", 0.9, 300, 100, 340, 220)
CAR = Found("car", 0.9, 100, 220, 220, 290)
LIGHTS = {
    "day": (1.0, (1.0, 1.0, 1.0), 0.0),
    "dusk": (0.55, (1.0, 1.0, 1.0), 0.0),
    "bright": (1.1, (1.0, 1.0, 1.0), 0.0),
    "lamps": (0.75, (1.15, 1.0, 0.82), 0.0),
    "shade": (0.8, (0.92, 1.0, 1.12), 0.0),
    "haze": (0.75, (1.0, 1.0, 1.0), 0.16),
}


def street(seed: int = 0) -> Picture:
    """Asphalt, a pale wall, some sky, a dark doorway, a hedge."""
    dice = np.random.default_rng(seed)
    picture = np.full((360, 640, 3), (118, 118, 120), np.float32)
    picture[:70] = (225, 228, 235)
    picture[70:140] = (176, 172, 165)
    picture[80:140, 20:60] = (18, 18, 18)
    picture[90:140, 480:560] = (60, 95, 50)
    picture += dice.normal(0, 6, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def dress(picture: Picture, upper: Colour, lower: Colour, seed: int = 0) -> None:
    """A figure within PERSON: head, body, legs with a gap, shoes."""
    dice = np.random.default_rng(seed)
    for (y1, y2, x1, x2), paint in [
        ((104, 120, 314, 326), (196, 150, 125)),
        ((120, 162, 308, 332), PAINTS[upper]),
        ((162, 208, 310, 319), PAINTS[lower]),
        ((162, 208, 321, 330), PAINTS[lower]),
        ((208, 216, 308, 332), (30, 30, 30)),
    ]:
        folds = dice.normal(1.0, 0.08, (y2 - y1, x2 - x1, 1))
        picture[y1:y2, x1:x2] = np.clip(np.array(paint) * folds, 0, 255)


def park(picture: Picture, colour: Colour) -> None:
    """A car within CAR: roof and windows, body, wheels."""
    picture[224:246, 125:195] = PAINTS[colour]
    picture[230:246, 132:188] = (40, 45, 50)
    picture[246:276, 102:218] = PAINTS[colour]
    for x in (125, 195):
        picture[266:288, x - 11 : x + 11] = (25, 25, 25)


def lit(picture: Picture, name: str) -> Picture:
    gain, tint, haze = LIGHTS[name]
    changed = picture * (gain * np.array(tint)) * (1 - haze) + 255 * haze * 0.8
    return np.clip(changed, 0, 255).astype(np.uint8)


def told(group: str, found: Found, pictures: list[Picture]) -> Colours:
    votes = ColourVotes(group)
    for picture in pictures:
        votes.look(picture, found, light(picture))
    return votes.colours()


@pytest.mark.parametrize("name", LIGHTS)
def test_clothing_is_told_in_changed_light(name: str) -> None:
    right, wrong = 0, []
    colours = list(PAINTS)
    for number, upper in enumerate(colours):
        lower = colours[(number + 4) % len(colours)]
        pictures = []
        for seed in range(3):
            picture = street(seed)
            dress(picture, upper, lower, seed)
            pictures.append(lit(picture, name))
        ours = told("person", PERSON, pictures)
        for said, true in ((ours.upper, upper), (ours.lower, lower)):
            right += said == true
            if said not in (true, None):
                wrong.append((said, true))
    assert right >= 18, wrong
    assert len(wrong) <= 3, wrong


@pytest.mark.parametrize("name", LIGHTS)
def test_vehicles_are_told_in_changed_light(name: str) -> None:
    said = {}
    for colour in PAINTS:
        pictures = []
        for seed in range(3):
            picture = street(seed)
            park(picture, colour)
            pictures.append(lit(picture, name))
        said[colour] = told("vehicle", CAR, pictures).vehicle
    assert sum(ours == true for true, ours in said.items()) >= 9, said


def test_a_figure_too_small_is_not_told() -> None:
    picture = street()
    dress(picture, Colour.RED, Colour.BLUE)
    small = picture[::6, ::6].copy()
    box = Found("person", 0.9, 50, 16.7, 56.7, 36.7)
    assert told("person", box, [small] * 3) == Colours()


def test_in_the_dark_nothing_is_told() -> None:
    picture = street()
    dress(picture, Colour.RED, Colour.BLUE)
    assert told("person", PERSON, [(picture * 0.1).astype(np.uint8)] * 3) == Colours()


def test_a_camera_that_sees_no_colour_tells_none() -> None:
    picture = street()
    dress(picture, Colour.RED, Colour.WHITE)
    grey = np.repeat(picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert told("person", PERSON, [grey] * 3) == Colours()


def test_one_look_is_not_enough() -> None:
    picture = street()
    dress(picture, Colour.RED, Colour.BLUE)
    assert told("person", PERSON, [picture]) == Colours()


def test_votes_that_disagree_tell_nothing() -> None:
    pictures = []
    for colour in (Colour.GREEN, Colour.BLUE, Colour.YELLOW, Colour.WHITE):
        picture = street()
        dress(picture, colour, Colour.BLACK)
        pictures.append(picture)
    assert told("person", PERSON, pictures) == Colours(lower=Colour.BLACK)


def test_a_dog_has_no_clothes() -> None:
    assert told("animal", PERSON, [street()] * 3) == Colours()

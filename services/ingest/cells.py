"""Arithmetic on a picture's cells, for the motion gate: lean, and numpy alone.

A cell is the mean brightness of a square of about 1/80 of the picture's width; neighbours overlap
by half, so that a small thing is whole in one of them wherever it is. BLOCK x BLOCK cells make a
block; there is a whole number of blocks.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]
Cells = npt.NDArray[np.float32]
Marks = npt.NDArray[np.bool_]

Value = TypeVar("Value", bound=np.generic)

COLUMNS = 160
BLOCK = 4
LEAST_PX = 16
"""Sides of the smallest picture that has cells."""
MOST_SHIFT_PX = 12.0


def without_drops(luma: Luma) -> Luma:
    """The picture without what is bright and at most 3 pixels wide: rain, and small snow."""
    low = np.minimum(luma[:, :-1], luma[:, 1:])
    low = np.minimum(low[:, :-2], low[:, 2:])
    high = np.maximum(low[:, :-1], low[:, 1:])
    found = luma.copy()
    np.maximum(high[:, :-2], high[:, 2:], out=found[:, 3:-3])
    return found


def cells_of(luma: Luma) -> Cells:
    """The cells of a picture of at least LEAST_PX a side. What makes no whole block is left out, at
    the top and the right, where the least is to be seen."""
    side = max(1, luma.shape[1] // COLUMNS)
    step = side * BLOCK
    rows, columns = luma.shape[0] // step * step, luma.shape[1] // step * step
    used = without_drops(luma[luma.shape[0] - rows :, :columns])
    sums = used[::side].astype(np.uint16)
    for offset in range(1, side):
        sums += used[offset::side]
    small = sums[:, ::side].astype(np.float32)
    for offset in range(1, side):
        small += sums[:, offset::side]
    # Each with its neighbours to the right and below; the last ones are their own.
    small[:, :-1] += small[:, 1:]
    small[:, -1] *= 2
    small[:-1] += small[1:]
    small[-1] *= 2
    small *= np.float32(1 / (4 * side * side))
    return small


def box(values: Cells, side: int) -> Cells:
    """The mean over squares of `side` cells (odd, small) around each; borders are repeated."""
    half = side // 2
    rows, columns = values.shape
    wide = np.empty((rows, columns + 2 * half), np.float32)
    wide[:, half : half + columns] = values
    wide[:, :half] = values[:, :1]
    wide[:, half + columns :] = values[:, -1:]
    across = wide[:, :columns].copy()
    for offset in range(1, side):
        across += wide[:, offset : offset + columns]
    high = np.empty((rows + 2 * half, columns), np.float32)
    high[half : half + rows] = across
    high[:half] = across[:1]
    high[half + rows :] = across[-1:]
    found = high[:rows].copy()
    for offset in range(1, side):
        found += high[offset : offset + rows]
    found *= np.float32(1 / (side * side))
    return found


def soft(values: Cells) -> Cells:
    """The values without anything smaller than about 20 cells."""
    rows = values[0::BLOCK] + values[1::BLOCK] + values[2::BLOCK] + values[3::BLOCK]
    small = rows[:, 0::BLOCK] + rows[:, 1::BLOCK] + rows[:, 2::BLOCK] + rows[:, 3::BLOCK]
    small = box(small * np.float32(1 / (BLOCK * BLOCK)), 5)
    return box(_back(small), 5)


def near(marks: Marks, blocks: int) -> Marks:
    """Everything at most so many blocks from a mark."""
    small = _blocks(marks)
    for _ in range(blocks):
        small = _grown(small)
    return _back(small)


def flood(seeds: Marks, within: Marks) -> Marks:
    """The marks of `within` that hang together with a seed, by blocks."""
    small, room = _blocks(seeds), _blocks(within | seeds)
    before = -1
    while (count := int(np.count_nonzero(small))) != before:
        before = count
        small = _grown(small) & room
    return _back(small)


def _grown(small: Marks) -> Marks:
    high = small.copy()
    high[1:] |= small[:-1]
    high[:-1] |= small[1:]
    wide = high.copy()
    wide[:, 1:] |= high[:, :-1]
    wide[:, :-1] |= high[:, 1:]
    return wide


def _blocks(marks: Marks) -> Marks:
    rows = marks[0::BLOCK] | marks[1::BLOCK] | marks[2::BLOCK] | marks[3::BLOCK]
    return rows[:, 0::BLOCK] | rows[:, 1::BLOCK] | rows[:, 2::BLOCK] | rows[:, 3::BLOCK]


def _back(small: npt.NDArray[Value]) -> npt.NDArray[Value]:
    return small.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)


def middle(values: Cells) -> float:
    """The median of every third row and column."""
    return float(np.median(values[1::3, 1::3]))


def slopes(cells: Cells) -> tuple[Cells, Cells]:
    """Levels a cell to the right, and downwards; 0 at the border."""
    gx, gy = np.zeros_like(cells), np.zeros_like(cells)
    np.subtract(cells[:, 2:], cells[:, :-2], out=gx[:, 1:-1])
    np.subtract(cells[2:], cells[:-2], out=gy[1:-1])
    gx *= np.float32(0.5)
    gy *= np.float32(0.5)
    return gx, gy


def shift_of(gx: Cells, gy: Cells, difference: Cells, width: int) -> tuple[float, float]:
    """How far the picture moved as a whole, right and down, in pixels.

    Least squares of its difference from the background on the background's slopes; what differs
    most is a thing that moves, and has no say.
    """
    pitch = width / difference.shape[1]
    gx, gy, difference = gx[1::2], gy[1::2], difference[1::2]
    difference = difference - np.float32(middle(difference))
    size = np.abs(difference)
    use = size <= np.float32(3 * middle(size) + 0.5)
    gx, gy, difference = gx[use], gy[use], difference[use]
    xx, yy, xy = float(gx @ gx), float(gy @ gy), float(gx @ gy)
    xd, yd = float(gx @ difference), float(gy @ difference)
    determinant = xx * yy - xy * xy
    if determinant <= 1e-3 * max(1.0, xx * yy):
        return 0.0, 0.0
    # Content that moved right by a makes the picture the background less a slopes.
    right = -(xd * yy - yd * xy) / determinant * pitch
    down = -(yd * xx - xd * xy) / determinant * pitch
    return _within(right), _within(down)


def _within(shift: float) -> float:
    return max(-MOST_SHIFT_PX, min(MOST_SHIFT_PX, shift))


def shifted(luma: Luma, right: int, down: int) -> Luma:
    """The picture with its content moved back by these pixels; its border is repeated."""
    height, width = luma.shape
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    return luma[rows][:, columns]

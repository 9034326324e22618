"""Arithmetic on sets of half-open intervals of integers, as sorted lists of disjoint pairs."""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[int, int]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The smallest sorted, disjoint, non-touching list that covers the same integers."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def intersect(left: Iterable[Interval], right: Iterable[Interval]) -> list[Interval]:
    """What both sets cover."""
    a, b = union(left), union(right)
    out: list[Interval] = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            out.append((start, end))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return out


def subtract(left: Iterable[Interval], right: Iterable[Interval]) -> list[Interval]:
    """What `left` covers and `right` does not."""
    holes = union(right)
    out: list[Interval] = []
    first = 0
    for start, end in union(left):
        while first < len(holes) and holes[first][1] <= start:
            first += 1
        position, index = start, first
        while index < len(holes) and holes[index][0] < end:
            if holes[index][0] > position:
                out.append((position, holes[index][0]))
            position = max(position, holes[index][1])
            index += 1
        if position < end:
            out.append((position, end))
    return out


def total(intervals: Iterable[Interval]) -> int:
    """How many integers the set covers, each counted once."""
    return sum(end - start for start, end in union(intervals))


def overlaps(a: Interval, b: Interval) -> bool:
    """Whether two half-open intervals share an integer."""
    return a[0] < b[1] and b[0] < a[1] and a[0] < a[1] and b[0] < b[1]

"""Which track goes on in which box: the cheapest matching, without doubtful pairs.

docs/tracking.md, "Association".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Costs = npt.NDArray[np.float64]


def assign(costs: Costs, limit: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of the cheapest matching in which leaving a pair apart costs `limit`.

    No pair that costs `limit` or more is made. Rows and columns of the pairs are distinct.
    """
    if costs.size == 0:
        return []
    rows, columns = linear_sum_assignment(np.minimum(costs, limit))
    return [
        (row, column)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        if costs[row, column] < limit
    ]

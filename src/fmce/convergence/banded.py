"""Symmetric matrices with two side diagonals, many at once: the algebra under `trend.py`.

Arrays are (N, B): N rows of each of B matrices. The loops run over the rows, so many small matrices cost little more
than one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Factor(NamedTuple):
    """LDLᵀ of B matrices. diagonal: that of D, > 0 where a matrix is. first, second: those below the ones of L."""

    diagonal: Array
    first: Array
    second: Array

    def take(self, columns: NDArray[np.intp]) -> "Factor":
        """Return the factors of some of the matrices."""
        return Factor(*(part[:, columns] for part in self))


def factorise(main: Array, first: Array, second: Array) -> Factor:
    """Factorise matrices given by their diagonals; entry i of a side diagonal couples row i to i + 1 or i + 2."""
    d, one, two = np.array(main), np.array(first), np.array(second)
    for i in range(len(d)):
        if i > 1:
            d[i] -= two[i - 2] ** 2 * d[i - 2]
        if i > 0:
            d[i] -= one[i - 1] ** 2 * d[i - 1]
            one[i] -= two[i - 1] * one[i - 1] * d[i - 1]
        one[i] /= d[i]
        two[i] /= d[i]
    return Factor(d, one, two)


def solve(factor: Factor, right: Array) -> Array:
    """Return the solutions (N,B) for right-hand sides (N,B)."""
    d, one, two = factor
    x = np.array(right)
    for i in range(1, len(x)):
        x[i] -= one[i - 1] * x[i - 1]
        if i > 1:
            x[i] -= two[i - 2] * x[i - 2]
    x /= d
    return _back(factor, x)


def draw(factor: Factor, normal: Array) -> Array:
    """Return draws (N,B,S) whose precision is the matrix, from standard normal ones (N,B,S)."""
    return _back(factor, normal / np.sqrt(factor.diagonal)[:, :, None])


def _back(factor: Factor, x: Array) -> Array:
    """Solve Lᵀx = right in place."""
    one, two = (part.reshape(*part.shape, *[1] * (x.ndim - 2)) for part in factor[1:])
    for i in range(len(x) - 2, -1, -1):
        x[i] -= one[i] * x[i + 1]
        if i + 2 < len(x):
            x[i] -= two[i] * x[i + 2]
    return x

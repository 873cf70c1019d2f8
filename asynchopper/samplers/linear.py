"""Products and inverses of small matrices on the calling thread alone.

A linear algebra library starts its threads for matrices of a hundred rows. That gains nothing here, and where the
machine is busy with evaluations it costs ten times the work: threads wait for each other. So larger ones are cut up.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from asynchopper.samplers.latent import Flags, Vector

_WORK = 1 << 18  # multiplications in one call; OpenBLAS starts threads above
_THIN = 16  # rows; so few take as long as many, since each call rearranges all of the other matrix
_ROWS = 80  # rows of a matrix that is inverted in one call; threads start between 96 and 110
_MORE = 0.0, 1e-9, 1e-6, 1e-3, 1.0  # on the diagonal, in units of what stands there


def product(a: Vector, b: Vector) -> Vector:
    """The matrix product."""
    n, (k, m) = len(a), b.shape
    rows, columns = _WORK // max(1, k * m), m
    if n <= rows:
        return np.asarray(a @ b)
    if rows < _THIN:
        rows = columns = max(1, math.isqrt(_WORK // k))
    out = np.empty((n, m))
    for left in range(0, m, columns):
        some = b[:, left : left + columns]
        for top in range(0, n, rows):
            np.matmul(a[top : top + rows], some, out=out[top : top + rows, left : left + columns])
    return out


def image(a: Vector, v: Vector) -> Vector:
    """The product of a matrix and a vector."""
    return product(a, v[:, None])[:, 0]


def square(v: Vector) -> float:
    """The sum of the squares; of long vectors a library would give each of its threads a part."""
    return float(np.einsum("i,i", v, v))


def inverse(a: Vector) -> Vector:
    """The inverse of a symmetric positive definite matrix; where rounding has made it indefinite, of one with a little more on
    its diagonal."""
    scale = float(np.abs(a.diagonal()).mean()) or 1.0
    for more in _MORE:
        try:
            m = unrooted(a + more * scale * np.eye(len(a)) if more else a)
        except np.linalg.LinAlgError:
            continue
        return product(m.T, m)
    return np.eye(len(a)) / scale  # as if its rows had nothing to do with each other


def unrooted(a: Vector) -> Vector:
    """The inverse of Cholesky's root of a matrix, by halves; where the matrix is nearly singular, inverting its halves themselves
    would lose the digits that tell them apart. Raises `LinAlgError` where rounding has made the matrix indefinite."""
    n = len(a)
    if n <= _ROWS:
        root = np.linalg.cholesky(a)
        if not np.isfinite(root[-1, -1]):
            raise np.linalg.LinAlgError("there are numbers in it that are none")
        inverted = np.asarray(np.linalg.inv(root), np.float64)
        np.copyto(inverted, 0.0, where=_above(n))  # but for rounding, it is
        return inverted
    h = n // 2
    first = unrooted(a[:h, :h])
    across = product(first, a[:h, h:])
    second = unrooted(a[h:, h:] - product(across.T, across))
    out = np.zeros_like(a)
    out[:h, :h], out[h:, h:] = first, second
    out[h:, :h] = -product(product(second, across.T), first)
    return out


@lru_cache(_ROWS)
def _above(n: int) -> Flags:
    """What lies above the diagonal of a matrix of so many rows."""
    return np.triu(np.ones((n, n), np.bool_), 1)

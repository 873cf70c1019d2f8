"""Products and inverses of small matrices on the calling thread alone.

A linear algebra library starts its threads for matrices of a hundred rows. That gains nothing here, and where the
machine is busy with evaluations it costs ten times the work: threads wait for each other. So larger ones are cut up.
"""

from __future__ import annotations

import numpy as np

from asynchopper.samplers.latent import Vector

_WORK = 1 << 17  # multiplications in one call; OpenBLAS starts threads above 2^18
_ROWS = 80  # rows of a matrix that is inverted in one call; threads start between 96 and 110


def product(a: Vector, b: Vector) -> Vector:
    """The matrix product."""
    n = len(a)
    step = max(1, _WORK // max(1, b.shape[0] * b.shape[1]))
    if n <= step:
        return np.asarray(a @ b)
    out = np.empty((n, b.shape[1]))
    for start in range(0, n, step):
        np.matmul(a[start : start + step], b, out=out[start : start + step])
    return out


def inverse(a: Vector) -> Vector:
    """The inverse of a symmetric positive definite matrix, by halves (the Schur complement)."""
    n = len(a)
    if n <= _ROWS:
        return np.asarray(np.linalg.inv(a), np.float64)
    h = n // 2
    b = a[:h, h:]
    first = inverse(a[:h, :h])
    across = product(first, b)
    second = inverse(a[h:, h:] - product(b.T, across))
    corner = product(across, second)
    out = np.empty_like(a)
    out[:h, :h] = first + product(corner, across.T)
    out[:h, h:], out[h:, :h] = -corner, -corner.T
    out[h:, h:] = second
    return out

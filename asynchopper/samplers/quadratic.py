"""A quadratic through the points around the best one, and its minimum within a trust region. Numpy alone.

The prior prefers few coefficients: a slope, one curvature for all, one for each coordinate, and the whole matrix, each with
a weight that is fitted by marginal likelihood, as the smallest change of the matrix is chosen in Powell's NEWUOA (2006) and
the kind of model in Hansen, "A Global Surrogate Assisted CMA-ES", 2019. Its residual grows with the third power of the
distance, so that points far away count less where the function is no quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from asynchopper.samplers.latent import Flags, Latent, Vector
from asynchopper.samplers.linear import image, product, unrooted

FEWEST = 4  # points
_ROUNDS = 10
# the logarithms of the weights of slope, one curvature, diagonal, matrix, residual and noise
_START = tuple(map(math.log, (1.0, 0.3, 0.1, 0.1, 1e-3, 1e-6)))
_LOW = tuple(map(math.log, (1e-4, 1e-6, 1e-6, 1e-6, 1e-12, 1e-12)))
_HIGH = tuple(map(math.log, (1e4, 1e4, 1e4, 1e4, 1e2, 1e1)))
_CONSTANT = 100.0  # the variance of the value at the origin; large, since nothing is known of it
_JITTER = 1e-12
_STEPS = 100  # of conjugate gradients
_SMALL = 1e-150  # the square of what is smaller is no float
_LARGEST = 1e6  # times the median; a value above it says no more than one that is there


Times: TypeAlias = "Callable[[Vector], Vector]"
"""A matrix, by what it makes of a vector: in hundreds of dimensions it is never written out."""


class Around(NamedTuple):
    """A quadratic around a point, in units of `scale`."""

    slope: Vector
    times: Times
    noise: float
    """Which part of the values no quadratic explains from one point to the next."""
    scale: float

    def lowest(self, latent: Latent, best: Vector, alive: Flags, length: float) -> tuple[Vector, float]:
        """Where it is lowest within the bounds and `length`, around the coordinates `best`, of which those that are `alive` may
        move; and the step to there. Both lengths are the root of the mean square over these."""
        x = best[alive]
        bounded = np.ones(len(x), np.bool_) if latent.bounded is None else latent.bounded[alive]
        low = np.where(bounded, -x / self.scale, -math.inf)
        high = np.where(bounded, (1.0 - x) / self.scale, math.inf)
        s = self.scale * lowest(self.slope, self.times, length * math.sqrt(len(x)) / self.scale, low, high)
        to = best.copy()
        to[alive] = np.where(bounded, np.clip(x + s, 0.0, 1.0 - 2**-53), x + s)
        return latent.snap(to[None])[0], math.sqrt(float(s @ s) / len(x))


def around(away: Vector, y: Vector, few: int) -> Around | None:
    """The likeliest quadratic through the `few` points that are nearest to the first one, which is the best; `away` is where
    they are from there. `None` where nothing can be learnt."""
    r2 = (away * away).sum(1)
    near = np.argsort(r2, kind="stable")[:few]
    scale = math.sqrt(float(r2[near].mean()))
    fitted = quadratic(away[near] / scale, y[near]) if scale > 0 else None
    return None if fitted is None else Around(*fitted, scale)


def quadratic(u: Vector, y: Vector) -> tuple[Vector, Times, float] | None:
    """Slope and matrix at the origin of the likeliest quadratic through the points `u`, whose values are `y`, and which part
    of the values is noise.

    It is in units of the values' deviation. The first point is the best one. `None` where nothing can be learnt: all values
    are equal, or the points are too close for their kernel to be inverted.
    """
    n, d = u.shape
    t = y - y[0]
    middle = float(np.sort(t)[[(n - 1) // 2, n // 2]].mean())  # np.median would import half of numpy.ma
    if middle > 0:
        t = np.minimum(t, _LARGEST * middle)
    if 0.0 < (top := float(t.max())) < _SMALL:
        t = t / top
    scale = float(t.std())
    if not scale > 0:
        return None
    t = t / scale
    squares = u * u
    r2 = squares.sum(1)
    inner = product(u, u.T)
    parts = np.stack([inner, r2[:, None] * r2, product(squares, squares.T), inner * inner]).reshape(4, n * n)
    units = n / np.maximum(parts[:, :: n + 1].sum(1), 1e-300 * n)
    parts *= units[:, None]
    far = r2**3
    far = far / max(float(far.mean()), 1e-300)
    theta, before, pace = list(_START), [0.0] * 6, [0.7] * 6
    best: tuple[float, list[float], Vector] | None = None
    for _ in range(_ROUNDS + 1):  # Rprop, as for the lengths of the process; six numbers are faster one by one
        w = [math.exp(x) for x in theta]
        k = np.einsum("p,pk->k", w[:4], parts).reshape(n, n)  # which no library hands to its threads
        k += _CONSTANT
        k.flat[:: n + 1] += w[4] * far + (w[5] + _JITTER)
        try:
            m = unrooted(k)
        except np.linalg.LinAlgError:  # rounding has made it indefinite: more noise
            theta[5] += 3.0
            continue
        logdet = -2.0 * float(np.log(m.diagonal()).sum())
        alpha = (m @ t) @ m
        variance = max(float(t @ alpha) / n, 1e-30)
        away = [x - start for x, start in zip(theta, _START, strict=True)]
        value = -0.5 * n * math.log(variance) - 0.5 * logdet - 0.02 * sum(x * x for x in away)
        if best is None or value > best[0]:
            best = value, w, alpha
        gain = (alpha[:, None] / variance) * alpha - product(m.T, m)
        diagonal = gain.diagonal()
        rises = np.einsum("pk,k->p", parts, gain.ravel()).tolist()
        rises += [float(diagonal @ far), float(diagonal.sum())]
        for i, rise in enumerate(rises):
            slope = 0.5 * w[i] * rise - 0.04 * away[i]
            turn = slope * before[i]
            pace[i] = min(max(pace[i] * (1.3 if turn > 0 else 0.5 if turn < 0 else 1.0), 1e-2), 2.0)
            before[i] = slope = 0.0 if turn < 0 else slope
            theta[i] = min(max(theta[i] + math.copysign(pace[i] if slope else 0.0, slope), _LOW[i]), _HIGH[i])
    if best is None:
        return None
    w, alpha = best[1:]
    g = w[0] * units[0] * (alpha @ u)
    rank = 2.0 * w[3] * units[3]
    own = 2.0 * (w[1] * units[1] * float(alpha @ r2) + w[2] * units[2] * (alpha @ squares))
    noise = w[5] / sum(w)
    if d > n:
        return g, lambda v: rank * image(u.T, alpha * image(u, v)) + own * v, noise
    h = rank * product(u.T * alpha, u)
    h.flat[:: d + 1] += own
    return g, lambda v: h @ v, noise


def lowest(g: Vector, times: Times, radius: float, low: Vector, high: Vector) -> Vector:
    """Where g s + s h s / 2 is lowest within `radius` and the bounds, about, for the matrix h that `times` a vector is; what hits
    a bound stays there."""
    s = np.zeros(len(g))
    free = np.ones(len(g), np.bool_)
    for _ in range(4):
        left = radius * radius - float(s[~free] @ s[~free])
        if left <= 0 or not free.any():
            break
        slope = np.where(free, g + times(np.where(free, 0.0, s)), 0.0)
        s = np.where(free, _conjugate(slope, times, free, math.sqrt(left)), s)
        out = free & ((s < low) | (s > high))
        s = np.clip(s, low, high)
        if not out.any():
            break
        free &= ~out
    return s


def _conjugate(g: Vector, times: Times, free: Flags, radius: float) -> Vector:
    """Conjugate gradients in the coordinates that are `free`, up to the edge of the region (Steihaug 1983)."""
    s = np.zeros(len(g))
    r, p = -g, -g
    rr = float(r @ r)
    if rr <= 0:
        return s
    stop = 1e-20 * rr
    for _ in range(min(2 * len(g), _STEPS)):
        hp = np.where(free, times(p), 0.0)
        curve = float(p @ hp)
        step = rr / curve if curve > 0 else math.inf
        new = s + step * p if math.isfinite(step) else s
        if not math.isfinite(step) or float(new @ new) >= radius * radius:
            a, b, c = float(p @ p), float(s @ p), float(s @ s) - radius * radius
            return s + (-b + math.sqrt(max(b * b - a * c, 0.0))) / max(a, 1e-300) * p
        s = new
        r = r - step * hp
        old, rr = rr, float(r @ r)
        if rr <= stop:
            break
        p = r + rr / old * p
    return s

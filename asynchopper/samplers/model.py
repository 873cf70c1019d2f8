"""A small Gaussian process: Matern 5/2 with a length for each parameter, and what options do by themselves. Numpy alone.

Points are rows of features: first those that have lengths, as many as there are in `groups`, and then those whose products
are added to the kernel as they are.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006 (equation numbers below). The prior on the lengths
grows with the square root of their number: Hvarfner et al., "Vanilla Bayesian Optimization Performs Great in High
Dimensions", arXiv:2402.02229. Running points shrink the variance and leave the mean alone, as if they had come out as
predicted: Ginsbourger et al., "Kriging Is Well-Suited to Parallelize Optimization", 2010.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from asynchopper.samplers.latent import Vector
from asynchopper.samplers.linear import inverse, product, unrooted

_ROOT5 = math.sqrt(5.0)
_NOISE = (1e-6, 0.5)
_ITERATIONS = 24


class Lengths(NamedTuple):
    """What is fitted: one length for each group of features, and the noise in units of the signal's variance."""

    values: Vector
    noise: float


def matern(a: Vector, b: Vector) -> Vector:
    """The kernel between two sets of scaled points (eq. 4.17)."""
    r2 = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2.0 * product(a, b.T)
    np.maximum(r2, 0.0, out=r2)
    r = np.sqrt(5.0 * r2)
    return np.asarray((1.0 + r + (5.0 / 3.0) * r2) * np.exp(-r))


def squash(losses: Vector) -> Vector:
    """Losses as targets of mean 0 and deviation 1: logarithmic below the median, ranks above it."""
    n = len(losses)
    order = np.argsort(losses, kind="stable")
    rank = np.empty(n)
    rank[order] = np.arange(n)
    low, middle = losses[order[0]], losses[order[n // 2]]
    spread = middle - low
    if not spread > 0 or not math.isfinite(spread):
        y = rank / n
    else:
        s = np.minimum(losses - low, spread) / spread
        y = np.log(s + 0.1) - math.log(1.1) + np.maximum(rank / n - 0.5, 0.0) * 2.0
    y = y - y.mean()
    return np.asarray(y / max(float(y.std()), 1e-12))


def fit(x: Vector, y: Vector, groups: np.ndarray[Any, np.dtype[np.intp]]) -> Lengths:
    """The lengths and the noise that make `y` likeliest, under their prior; feature `j` belongs to `groups[j]`."""
    g, x, alone = int(groups.max()) + 1, x[:, : len(groups)], _alone(x, x, groups)
    centre = math.log(0.6 * math.sqrt(g))
    best: tuple[float, Vector] | None = None
    for shift in (-1.0, -0.3, 0.4):
        theta = np.append(np.full(g, centre + shift), math.log(1e-3))
        value = _likelihood(theta, x, y, alone, groups, centre)[0]
        if best is None or value > best[0]:
            best = value, theta
    assert best is not None
    theta = best[1].copy()
    pace, before = np.full(g + 1, 0.15), np.zeros(g + 1)
    top = best
    for _ in range(_ITERATIONS):  # Rprop: the sign of the slope decides, so its scale does not matter
        value, slope = _likelihood(theta, x, y, alone, groups, centre)
        if value > top[0]:
            top = value, theta.copy()
        turn = slope * before
        pace = np.clip(np.where(turn > 0, 1.3 * pace, np.where(turn < 0, 0.5 * pace, pace)), 1e-3, 0.6)
        before = np.where(turn < 0, 0.0, slope)
        theta = theta + np.sign(before) * pace
        theta[:-1] = np.clip(theta[:-1], centre - 4.0, centre + 5.0)
        theta[-1] = min(max(theta[-1], math.log(_NOISE[0])), math.log(_NOISE[1]))
    return Lengths(np.exp(top[1][:-1]), float(math.exp(top[1][-1])))


def _alone(a: Vector, b: Vector, groups: np.ndarray[Any, np.dtype[np.intp]]) -> Vector | float:
    """What the features without lengths add to the kernel between two sets of points."""
    g = len(groups)
    return product(a[:, g:], b[:, g:].T) if a.shape[1] > g else 0.0


def _likelihood(
    theta: Vector,
    x: Vector,
    y: Vector,
    alone: Vector | float,
    groups: np.ndarray[Any, np.dtype[np.intp]],
    centre: float,
) -> tuple[float, Vector]:
    """The log posterior of log lengths and log noise, the signal's variance profiled out, and its slope (eq. 5.9); `alone` is
    added to the kernel of `x`."""
    n = len(y)
    xs = x / np.exp(theta[:-1])[groups]
    r2 = (xs * xs).sum(1)[:, None] + (xs * xs).sum(1) - 2.0 * product(xs, xs.T)
    np.maximum(r2, 0.0, out=r2)
    r = np.sqrt(5.0 * r2)
    e = np.exp(-r)
    noise = math.exp(theta[-1])
    k = (1.0 + r + (5.0 / 3.0) * r2) * e
    k.flat[:: n + 1] = 1.0 + noise + 1e-8
    k += alone
    try:
        root = unrooted(k)
    except np.linalg.LinAlgError:
        return -math.inf, np.zeros(len(theta))
    logdet = -2.0 * float(np.log(root.diagonal()).sum())
    alpha = (root @ y) @ root
    variance = max(float(y @ alpha) / n, 1e-12)
    away = theta[:-1] - centre
    value = -0.5 * n * math.log(variance) - 0.5 * logdet - 0.25 * float(away @ away) - 0.02 * (theta[-1] + 7) ** 2
    m = np.outer(alpha, alpha) / variance - product(root.T, root)
    w = m * ((5.0 / 3.0) * (1.0 + r) * e)
    per_feature = (w.sum(1)[:, None] * xs * xs - xs * product(w, xs)).sum(0)  # one half of sum_ij w_ij (x_i - x_j)^2
    slope = np.empty(len(theta))
    slope[:-1] = np.bincount(groups, per_feature, len(theta) - 1) - 0.5 * away
    slope[-1] = 0.5 * noise * float(np.trace(m)) - 0.04 * (theta[-1] + 7)
    return value, slope


class Surrogate:
    """The process given some points. `predict` gives means and deviations of others."""

    def __init__(self, x: Vector, y: Vector, lengths: Lengths, groups: np.ndarray[Any, np.dtype[np.intp]]) -> None:
        self._groups, self._scale = groups, 1.0 / lengths.values[groups]
        self._x = x
        k = self._kernel(x, x)
        n = len(y)
        k.flat[:: n + 1] += max(lengths.noise, 1e-6) + 1e-8
        self._noise = lengths.noise
        self._inverse = inverse(k)
        self._alpha = self._inverse @ y
        self._variance = max(float(y @ self._alpha) / n, 1e-6)

    def _kernel(self, a: Vector, b: Vector) -> Vector:
        g = len(self._groups)
        return matern(a[:, :g] * self._scale, b[:, :g] * self._scale) + _alone(a, b, self._groups)

    def predict(self, x: Vector, running: Vector | None) -> tuple[Vector, Vector]:
        """Means and standard deviations at `x`; points that are `running` make the deviation smaller around them."""
        k = self._kernel(x, self._x)
        mean = k @ self._alpha
        half = product(k, self._inverse)
        alone = x[:, len(self._groups) :]
        variance = 1.0 + (alone * alone).sum(1) - (half * k).sum(1)
        if running is not None and len(running):
            kr = self._kernel(running, self._x)
            among = self._kernel(running, running) - product(product(kr, self._inverse), kr.T)
            among.flat[:: len(running) + 1] += self._noise + 1e-6
            cross = self._kernel(x, running) - product(half, kr.T)
            variance -= (product(cross, inverse(among)) * cross).sum(1)
        return mean, np.sqrt(np.maximum(variance, 1e-10) * self._variance)

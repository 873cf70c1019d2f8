"""An asynchronous evolution strategy for hundreds of coordinates and more: a mean, a step, and a scale for each coordinate.

Where an evaluation is one of a few for each coordinate, no covariance can be learnt in time; what counts is how far the
mean gets with each of them. So all points have a say, the bad ones too: Arnold, "Weighted multirecombination evolution
strategies", TCS 361 (2006), doubles the progress on a sphere with that. A point counts from the mean that it was drawn
around: seen from the present one, all that were drawn earlier would lie to the rear. The step follows the ranks of one
generation among those of the one before: Loshchilov, "LM-CMA: an alternative to L-BFGS for large scale black-box
optimization", arXiv:1511.00221. The scales: Ros and Hansen, "A Simple Modification in CMA-ES", PPSN 2008.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import NormalDist

import numpy as np

from asynchopper.samplers.cma import Point
from asynchopper.samplers.latent import Vector
from asynchopper.samplers.linear import square

_NUMBERS = 8_000_000  # in the points of a generation, and in the means that are remembered
_MEANS = 64  # of so many generations, at most
_LONGEST = 2.0  # times the usual length: how far from its mean a point may seem to be
_RATE = 0.7  # of the way that a generation points to is gone
_ENOUGH = 0.3  # how much better than the last a generation has to be for a longer step, from -1 to 1
_FOLLOW = 0.3  # the weight of the last generation in that
_SHORTEST = 1e-6  # a step this short finds nothing more where the mean is; the first one comes again


class Diagonal:
    """`feed` takes one evaluated point in; every `size` of them make a generation."""

    def __init__(self, points: list[tuple[float, Vector]], step: float, widths: Vector) -> None:
        d = self.d = len(widths)
        size = self.size = max(8, min(4 + int(3 * math.log(d)), _NUMBERS // d))
        scores = [NormalDist().inv_cdf(1 - (i + 0.625) / (size + 0.25)) for i in range(size)]  # Blom's, of the ranks
        self.weights = 2 * np.array(scores) / sum(abs(s) for s in scores)
        self.good = np.maximum(self.weights, 0.0)
        self.scaling = min(0.15, 1 / float(np.sum(self.weights**2)) / (6 * d))
        best = sorted(points, key=lambda p: p[0])[: max(1, min(size // 2, len(points) // 2))]
        w = math.log(len(best) + 0.5) - np.log(np.arange(1, len(best) + 1))
        self.mean: Vector = np.asarray(sum(wi * z for wi, (_, z) in zip(w / w.sum(), best, strict=True)))
        self.step = self.first_step = step
        self.root: Vector = np.ones(d)
        """The scales."""
        self.floor = 0.3 * widths if widths.any() else None
        """A step in a coordinate of cells never gets so short that it cannot leave its cell."""
        self.generation = 0
        self._past: deque[tuple[Vector, float]] = deque([(self.mean, step)], max(2, min(_MEANS, _NUMBERS // d)))
        self._points: list[tuple[float, Vector, int]] = []
        self._losses: list[float] = []
        self._trend = 0.0

    def sample(self, noise: Vector) -> Vector:
        """A point, from standard normal `noise`; it may lie outside the bounds."""
        y = self.root * noise
        y *= self.step * math.sqrt(self.d / square(noise))
        if self.floor is not None:
            y += np.sqrt(np.maximum(self.floor**2 - (self.step * self.root) ** 2, 0.0)) * np.sign(noise)
        y += self.mean
        return y

    def feed(self, loss: float, point: Point, drawn: float = -1.0) -> None:
        """One evaluated point; `drawn` is the generation that it comes from, and negative for another move's new best."""
        if drawn < 0 and self._losses:
            low, middle = self._losses[0], self._losses[len(self._losses) // 2]
            # so far ahead that what is drawn here would hardly ever reach it
            if low < middle and loss < low - (middle - low):
                self._pass(point.vector)
        self._points.append((loss, point.vector, int(drawn) if 0 <= drawn <= self.generation else self.generation))
        if len(self._points) >= self.size:
            self._update()
            self._points = []

    def _update(self) -> None:
        ranked = sorted(self._points, key=lambda p: p[0])
        shift, squares = np.zeros(self.d), np.zeros(self.d)
        for w, good, (_, z, drawn) in zip(self.weights.tolist(), self.good.tolist(), ranked, strict=True):
            mean, step = self._past[max(-len(self._past), drawn - self.generation - 1)]
            y = (z - mean) / step
            long = math.sqrt(square(y) / self.d)
            if long > _LONGEST:
                y *= _LONGEST / long
            shift += w * y
            if good > 0.0:
                squares += good * y * y
        self.mean = self.mean + _RATE * self.step * shift
        self.root = np.sqrt((1 - self.scaling) * self.root**2 + self.scaling * squares)
        losses = [p[0] for p in ranked]
        if self._losses:
            self._adapt(losses)
        self._losses = losses
        self._pass(self.mean)

    def _pass(self, mean: Vector) -> None:
        """Another generation, around this mean."""
        self.mean = mean
        self.generation += 1
        self._past.append((mean, self.step))

    def _adapt(self, losses: list[float]) -> None:
        """A longer step after a generation whose ranks are clearly below those of the last one, else a shorter one."""
        n = len(losses)
        order = np.argsort(np.array(losses + self._losses), kind="stable")
        ranks = np.empty(2 * n)
        ranks[order] = np.arange(2 * n)
        better = float(ranks[n:].sum() - ranks[:n].sum()) / n**2
        self._trend += _FOLLOW * (better - _ENOUGH - self._trend)
        self.step = min(self.step * math.exp(self._trend), 0.6)
        if self.step < _SHORTEST:
            self.step, self._trend = self.first_step, 0.0

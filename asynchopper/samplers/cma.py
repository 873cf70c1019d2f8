"""An asynchronous CMA-ES: a distribution that is a fold over finished trials, and that anyone may sample at any time.

Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv:1604.00772 (equation numbers below); solutions that another
move found, or that were drawn from an older distribution, are taken in as injected ones: Hansen, arXiv:1110.4181. Above
`FULL` coordinates see `diagonal.py`.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from asynchopper.samplers.latent import Vector
from asynchopper.samplers.linear import product

FULL = 48  # coordinates; up to here


class Point(Protocol):
    """What a distribution is fed with."""

    @property
    def vector(self) -> Vector:
        """The coordinates. Only those of the good ones are asked for."""
        ...


class Distribution:
    """Mean, step and covariance. `feed` takes one evaluated point in; every `size` of them make a generation."""

    def __init__(self, points: list[tuple[float, Vector]], step: float, widths: Vector) -> None:
        d = len(widths)
        self.d = d
        self.size = 4 + int(3 * math.log(d)) if d > 1 else 4
        mu = self.size // 2
        w = math.log((self.size + 1) / 2) - np.log(np.arange(1, mu + 1))  # eq. 49
        self.weights = w / w.sum()
        self.mueff = mueff = 1.0 / float(np.sum(self.weights**2))
        self.cs = (mueff + 2) / (d + mueff + 5)  # eq. 55
        self.ds = 1 + self.cs + 2 * max(0.0, math.sqrt((mueff - 1) / (d + 1)) - 1)
        self.cc = (4 + mueff / d) / (d + 4 + 2 * mueff / d)  # eq. 56
        self.c1 = 2 / ((d + 1.3) ** 2 + mueff)  # eq. 57
        self.cmu = min(1 - self.c1, 2 * (0.25 + mueff + 1 / mueff - 2) / ((d + 2) ** 2 + mueff))  # eq. 58
        self.chi = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d))
        self.clip = math.sqrt(d) + 2 * d / (d + 2)  # arXiv:1110.4181, eq. 4
        self.mean = self._centre(points)
        self.first_step = step
        self._round()
        self.floor = 0.3 * widths if widths.any() else None
        """A step in a coordinate of cells never gets so short that it cannot leave its cell."""
        self._extra: Vector | None = None
        """By how much steps in coordinates of cells are too short, once somebody has asked."""
        self.generation = 0
        self._points: list[tuple[float, Point]] = []

    def _round(self) -> None:
        """As wide as at first, in all directions."""
        self.step = self.first_step
        self.ps, self.pc = np.zeros(self.d), np.zeros(self.d)
        self.cov = np.eye(self.d)
        self.root: Vector = np.eye(self.d)
        self.unroot: Vector = self.root.copy()
        """A square root of the covariance and its inverse; Cholesky's, where the tutorial has the symmetric one."""

    def _centre(self, points: list[tuple[float, Vector]]) -> Vector:
        mu = max(1, min(len(self.weights), len(points) // 2))
        best = sorted(points, key=lambda p: p[0])[:mu]
        w = self.weights[:mu] / self.weights[:mu].sum()
        return np.asarray(sum(wi * z for wi, (_, z) in zip(w, best, strict=True)))

    def sample(self, noise: Vector) -> Vector:
        """A point, from standard normal `noise`; it may lie outside the bounds."""
        return self._placed(self.step * (self.root @ noise), noise)

    def samples(self, noise: Vector) -> Vector:
        """As `sample`, a row each."""
        return self._placed(self.step * product(noise, self.root.T), noise)

    def _placed(self, y: Vector, noise: Vector) -> Vector:
        """Where steps from the mean lead, in place, once they are long enough to leave their cells."""
        if self.floor is not None:
            if self._extra is None:
                sd = self.step * np.sqrt(np.diag(self.cov))
                self._extra = np.sqrt(np.maximum(self.floor**2 - sd**2, 0.0))
            y += self._extra * np.sign(noise)
        y += self.mean
        return y

    def feed(self, loss: float, point: Point, drawn: float = -1.0) -> None:
        """One evaluated point; when it was drawn makes no difference here."""
        self._points.append((loss, point))
        if len(self._points) >= self.size:
            self._update()
            self._points = []

    def _update(self) -> None:
        mu = len(self.weights)
        best = sorted(self._points, key=lambda p: p[0])[:mu]
        ys = (np.array([point.vector for _, point in best]) - self.mean) / self.step
        norms = np.linalg.norm(product(ys, self.unroot.T), axis=1)
        if norms.max() > self.clip:
            ys *= np.minimum(1.0, self.clip / np.maximum(norms, 1e-300))[:, None]
        yw = self.weights @ ys  # eq. 41
        self.mean = self.mean + self.step * yw  # eq. 42
        self.ps = (1 - self.cs) * self.ps + math.sqrt(self.cs * (2 - self.cs) * self.mueff) * (
            self.unroot @ yw
        )  # eq. 43
        length = math.sqrt(float(self.ps @ self.ps))
        self.generation += 1
        fresh = 1 - (1 - self.cs) ** (2 * self.generation)
        steady = length / math.sqrt(fresh) < (1.4 + 2 / (self.d + 1)) * self.chi
        self.pc = (1 - self.cc) * self.pc
        if steady:
            self.pc += math.sqrt(self.cc * (2 - self.cc) * self.mueff) * yw  # eq. 45
        lost = 0.0 if steady else self.c1 * self.cc * (2 - self.cc)
        keep = 1 - self.c1 - self.cmu + lost
        self.cov = (
            keep * self.cov + self.c1 * (self.pc[:, None] * self.pc) + self.cmu * product(ys.T * self.weights, ys)
        )
        self.cov.flat[:: self.d + 1] += 1e-12  # eq. 47
        self._extra = None
        try:
            self.root = np.asarray(np.linalg.cholesky(self.cov), np.float64)
            self.unroot = np.asarray(np.linalg.inv(self.root), np.float64)
        except np.linalg.LinAlgError:  # without bounds, one direction may outgrow what floats can tell of the others
            self._round()
            return
        self.step *= math.exp(min(1.0, self.cs / self.ds * (length / self.chi - 1)))  # eq. 44
        self.step = min(max(self.step, 1e-12), 0.6)

"""Matrices that are nearly singular, as those of a smooth function's points are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asynchopper.samplers.linear import inverse, product, unrooted
from asynchopper.samplers.quadratic import lowest, quadratic


@pytest.mark.parametrize("n", [60, 90, 130, 200])
def test_a_matrix_that_is_nearly_singular_keeps_its_digits(n: int) -> None:
    u = np.random.default_rng(n).uniform(-1, 1, (n, 50))
    k = 1e4 * (u @ u.T) + np.outer((u * u).sum(1), (u * u).sum(1)) + 100.0
    k.flat[:: n + 1] += 1e-8
    m = unrooted(k)
    t = ((u - 0.3) ** 2).sum(1)
    alpha = (m @ t) @ m
    assert np.abs(k @ alpha - t).max() < 1e-4 * np.abs(t).max()
    assert np.array_equal(m, np.tril(m))
    with pytest.raises(np.linalg.LinAlgError):
        unrooted(k - 1e6 * np.eye(n))


@pytest.mark.parametrize(
    ("n", "k", "m"),
    [(90, 90, 90), (150, 140, 160), (200, 640, 190), (7, 300_000, 2), (500, 2, 500), (3, 0, 4), (0, 3, 4)],
)
def test_a_product_in_pieces_is_the_whole(n: int, k: int, m: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((n, k)), rng.standard_normal((k, m))
    assert np.allclose(product(a, b), a @ b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [3, 80, 81, 200])
def test_an_inverse_is_one(n: int) -> None:
    a = np.random.default_rng(n).standard_normal((n, 2 * n))
    k = a @ a.T
    assert np.abs(inverse(k) @ k - np.eye(n)).max() < 1e-9


@pytest.mark.parametrize("n", [5, 64, 130])
def test_an_inverse_of_what_rounding_has_made_indefinite_is_a_number_still(n: int) -> None:
    """As among many candidates that are out at the same place."""
    rng = np.random.default_rng(n)
    noise = 1e-7 * rng.standard_normal((n, n))
    for matrix in (np.ones((n, n)) + noise + noise.T, np.zeros((n, n)), -np.eye(n)):
        assert np.isfinite(inverse(matrix)).all()


@pytest.mark.parametrize(("n", "d"), [(90, 60), (120, 80), (200, 150), (200, 190), (200, 300)])
def test_a_bowl_is_known_from_few_more_points_than_it_has_dimensions_and_its_slope_from_fewer(n: int, d: int) -> None:
    rng = np.random.default_rng(d)
    bottom = rng.uniform(-0.5, 0.5, d)
    u = np.vstack([np.zeros(d), rng.standard_normal((n - 1, d)) / math.sqrt(d)])
    fitted = quadratic(u, ((u - bottom) ** 2).sum(1))
    assert fitted is not None
    s = lowest(*fitted[:2], 10.0, np.full(d, -math.inf), np.full(d, math.inf))
    left = float(((s - bottom) ** 2).sum() / (bottom**2).sum())
    assert left < (1e-8 if n > d + 1 else 1.1 * (1.0 - n / d))

"""Artificial functions with a known optimum: continuous, mixed integer, mixed with options, conditional, noisy, wide."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from spaces import Param, number, option, vector, whole
from task import Task

TUNED_ON = ("sphere", "ellipsoid", "rosenbrock", "rastrigin", "ackley", "altcigar", "griewank", "deceptiveillcond")
REPORTED = (
    "cigar", "discus", "bentcigar", "schwefel_1_2", "stepellipsoid",
    "bucherastrigin", "lunacek", "deceptivemultimodal", "hm", "altellipsoid",
)  # fmt: skip


def stream(name: str) -> np.random.Generator:
    """The instance of a task is drawn from its name alone."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def core(name: str) -> Callable[[Any], float]:
    """One of Nevergrad's artificial functions, untransformed; its optimum is at the origin (rosenbrock: at the ones)."""
    from nevergrad.functions.corefuncs import registry

    f = registry[name]
    if name == "rosenbrock":
        return lambda z: float(f(z + 1.0))
    return lambda z: float(f(z))


def rotation(rng: np.random.Generator, d: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def continuous(name: str, d: int, instance: int = 0, noise: float = 0.0) -> Task:
    """`name` in a box of [-5, 5]^d, its optimum drawn from [-4, 4]^d, turned at random."""
    title = f"{name}-{d}-{instance}" + (f"-noise{noise:g}" if noise else "")
    rng = stream(title)
    shift, turn, f = rng.uniform(-4, 4, d), rotation(rng, d), core(name)
    params = tuple(number(f"x{i}", -5.0, 5.0) for i in range(d))

    def value(given: dict[str, Any]) -> float:
        return f(turn @ (np.array([given[f"x{i}"] for i in range(d)]) - shift))

    spread = _spread(value, params, rng) if noise else 0.0
    noisy = (lambda v, r: v + noise * spread * r.standard_normal()) if noise else None
    return Task(title, params, value, f(np.zeros(d)), noisy)


def wide(name: str, d: int, instance: int = 0) -> Task:
    """The same for an array of many entries, turned in blocks of 20."""
    title = f"{name}-array{d}-{instance}"
    rng = stream(title)
    shift, f = rng.uniform(-4, 4, d), core(name)
    turns = [(i, rotation(rng, min(20, d - i))) for i in range(0, d, 20)]

    def value(given: dict[str, Any]) -> float:
        z = np.asarray(given["x"], np.float64) - shift
        return f(np.concatenate([turn @ z[i : i + 20] for i, turn in turns]))

    return Task(title, (vector("x", d, -5.0, 5.0),), value, f(np.zeros(d)))


MANY = (
    "heavy1", "heavy3", "heavy5", "spread2", "spread4", "power", "cone", "kinks", "slope",
    "random", "flat", "ripple", "quartic", "chain", "steps", "logistic", "policy",
)  # fmt: skip


def many(kind: str, d: int, instance: int = 0) -> Task:
    """Hundreds of numbers: what few directions dominate, what is spread over many, kinks, waves, and two models' weights."""
    title = f"{kind}-many{d}-{instance}"
    rng = stream(title)
    shift = rng.uniform(-4, 4, d)
    turns = [(i, rotation(rng, min(25, d - i))) for i in range(0, d, 25)]
    matrix = rng.standard_normal((d, d)) if kind in ("random", "flat", "logistic", "policy") else np.zeros((0, d))
    slopes = 5.0 * rng.standard_normal(d)
    weights = np.ones(d)
    if kind.startswith("heavy"):  # few directions, up to a million times as steep
        weights[rng.permutation(d)[: int(kind[5:])]] = 10.0 ** {"1": 4, "3": 6, "5": 2}[kind[5:]]
    elif kind.startswith("spread"):
        weights = 10.0 ** rng.permutation(np.linspace(0, int(kind[6:]), d))
    elif kind == "power":
        weights = (d / rng.permutation(np.arange(1.0, d + 1))) ** 2
    k = math.isqrt(d)
    labels = np.sign(matrix @ rng.standard_normal(d) + rng.standard_normal(len(matrix)))
    starts = rng.standard_normal((k, 8))

    def turned(z: np.ndarray) -> np.ndarray:
        return np.concatenate([turn @ z[i : i + 25] for i, turn in turns])

    def steered(x: np.ndarray) -> float:
        """What a linear policy costs over ten steps of a linear system that is steered by it."""
        policy, a, b = (m[: k * k].reshape(k, k) for m in (x, matrix[0] / k**0.5, matrix[1] / k**0.5))
        state, cost = starts, 0.0
        for _ in range(10):
            acts = np.tanh(policy @ state)
            state = np.clip(a @ state + b @ acts, -10, 10)
            cost += float((state * state).mean() + 0.1 * (acts * acts).mean())
        return cost

    def value(given: dict[str, Any]) -> float:
        x = np.asarray(given["x"], np.float64)
        z = x - shift
        match kind:
            case "cone":
                return float(np.sqrt(z @ z))
            case "kinks":
                return float(np.abs(turned(z)).sum())
            case "slope":
                return float(slopes @ z)
            case "random":
                return float(((matrix @ z) ** 2).mean())
            case "flat":
                return float(((matrix[:10] @ z) ** 2).sum() + 0.01 * (z @ z))
            case "ripple":
                return float(z @ z + 8 * (1 - np.cos(3 * turned(z))).sum())
            case "quartic":
                return float((turned(z) ** 4).sum() + z @ z)
            case "chain":
                return float(z[0] ** 2 + 10 * (np.diff(z) ** 2).sum() + 0.1 * (z @ z))
            case "steps":
                return float(np.floor(2 * np.abs(turned(z))).sum() + 0.01 * np.sqrt(z @ z))
            case "logistic":
                return float(np.logaddexp(0.0, -labels * (matrix @ x)).mean())
            case "policy":
                return steered(x)
        return float(weights @ turned(z) ** 2)

    return Task(title, (vector("x", d, -5.0, 5.0),), value, None)


def mixed_integer(name: str, d: int, instance: int = 0) -> Task:
    """A fifth of the variables each with 2, 4, 8, 16 values, the rest continuous; the optimum is on the grid."""
    title = f"{name}-mixint{d}-{instance}"
    rng = stream(title)
    f, turn = core(name), rotation(rng, d)
    levels = [(2, 4, 8, 16, 0)[5 * i // d] for i in range(d)]
    params = tuple(whole(f"x{i}", 0, n - 1) if n else number(f"x{i}", -5.0, 5.0) for i, n in enumerate(levels))
    best = np.array([rng.integers(n) * 8 / (n - 1) - 4 if n else rng.uniform(-4, 4) for n in levels])

    def value(given: dict[str, Any]) -> float:
        x = [given[f"x{i}"] * 8 / (n - 1) - 4 if n else given[f"x{i}"] for i, n in enumerate(levels)]
        return f(turn @ (np.array(x) - best))

    return Task(title, params, value, f(np.zeros(d)))


def with_options(name: str, d: int, options: int, instance: int = 0, noise: float = 0.0) -> Task:
    """`d` numbers, half of them on log scales or integers, and `options` choices of 2 to 6, each with a cost of its own;
    two choices also move the optimum of the numbers."""
    title = f"{name}-mixed{d}c{options}-{instance}" + (f"-noise{noise:g}" if noise else "")
    rng = stream(title)
    f = core(name)
    params: list[Param] = []
    for i in range(d):
        if i % 4 == 1:
            params.append(number(f"x{i}", 1e-5, 1.0, log=True))
        elif i % 4 == 3:
            params.append(whole(f"x{i}", 1, 64))
        else:
            params.append(number(f"x{i}", -5.0, 5.0))
    sizes = rng.integers(2, 7, options)
    costs = [np.sort(rng.exponential(1.0, n))[rng.permutation(n)] for n in sizes]
    costs = [c - c.min() for c in costs]
    pulls = [rng.normal(0, 0.12, (n, d)) if i < 2 else np.zeros((n, d)) for i, n in enumerate(sizes)]
    best = rng.uniform(0.2, 0.8, d)
    params += [option(f"c{i}", *[f"o{j}" for j in range(n)]) for i, n in enumerate(sizes)]
    scale = _typical(f, d, rng)

    def value(given: dict[str, Any]) -> float:
        u = np.array([_unit(p, given[p.name]) for p in params[:d]])
        total = 0.0
        for i in range(options):
            j = int(given[f"c{i}"][1:])
            total += costs[i][j]
            u = u - pulls[i][j] * (costs[i][j] > 0)
        return f(10 * (u - best)) / scale + total / max(1, options) ** 0.5

    floor = f(np.zeros(d)) / scale
    noisy = (lambda v, r: v + noise * r.standard_normal()) if noise else None
    return Task(title, tuple(params), value, floor, noisy)


def conditional(name: str, branches: int, d: int, instance: int = 0, noise: float = 0.0) -> Task:
    """Two shared numbers, and a choice of `branches` with `d` numbers each, one of which is another choice's."""
    title = f"{name}-cond{branches}x{d}-{instance}" + (f"-noise{noise:g}" if noise else "")
    rng = stream(title)
    f = core(name)
    params: list[Param] = [number("s0", 0.0, 1.0), number("s1", 1e-4, 1.0, log=True)]
    kinds = tuple(f"b{i}" for i in range(branches))
    params.append(option("kind", *kinds))
    offset = np.concatenate([[0.0], rng.uniform(0.05, 0.8, branches - 1)])[rng.permutation(branches)]
    best = rng.uniform(0.15, 0.85, (branches, d + 2))
    for b, kind in enumerate(kinds):
        for i in range(d):
            log, integer = i % 3 == 1, i % 3 == 2
            where = ("kind", kind)
            name_i = f"{kind}_x{i}"
            params.append(
                whole(name_i, 1, 20, under=where)
                if integer
                else number(name_i, 1e-3 if log else 0.0, 1.0, log=log, under=where)
            )
        params.append(option(f"{kind}_m", "p", "q", "r", under=("kind", kind)))
        del b
    by_name = {p.name: p for p in params}
    extra = rng.permuted(np.tile([0.0, 0.15, 0.4], (branches, 1)), axis=1)
    scale = _typical(f, d + 2, rng)

    def value(given: dict[str, Any]) -> float:
        b = kinds.index(given["kind"])
        names = ["s0", "s1", *[f"b{b}_x{i}" for i in range(d)]]
        u = np.array([_unit(by_name[n], given[n]) for n in names])
        m = "pqr".index(given[f"b{b}_m"])
        return f(8 * (u - best[b])) / scale + offset[b] + extra[b, m]

    noisy = (lambda v, r: v + noise * r.standard_normal()) if noise else None
    return Task(title, tuple(params), value, f(np.zeros(d + 2)) / scale, noisy)


def bowls(branches: int, d: int, instance: int = 0) -> Task:
    """A choice of `branches`, each with `d` numbers and a bowl of its own; the lowest bottom is at 0, the others up to 0.5."""
    title = f"bowls{branches}x{d}-{instance}"
    rng = stream(title)
    bottom = rng.permutation([0.0, *rng.uniform(0.02, 0.5, branches - 1)])
    centre, scale = rng.random((branches, d)), rng.uniform(0.5, 3.0, (branches, d))
    kinds = tuple(f"b{i}" for i in range(branches))
    numbers = [number(f"{kind}_x{i}", 0.0, 1.0, under=("kind", kind)) for kind in kinds for i in range(d)]

    def value(given: dict[str, Any]) -> float:
        b = kinds.index(given["kind"])
        u = np.array([given[f"b{b}_x{i}"] for i in range(d)])
        return float(bottom[b] + (scale[b] * (u - centre[b]) ** 2).sum())

    return Task(title, (option("kind", *kinds), *numbers), value, 0.0)


def pbo(number_: int, d: int, instance: int = 1) -> Task:
    """A pseudo-Boolean problem of ioh; maximised there, so negated here."""
    import ioh

    problem = ioh.get_problem(number_, instance, d, ioh.ProblemClass.PBO)
    name = problem.meta_data.name.lower()
    params = tuple(option(f"x{i}", 0, 1) for i in range(d))

    def value(given: dict[str, Any]) -> float:
        return -float(problem([int(given[f"x{i}"]) for i in range(d)]))

    best = problem.optimum.y
    return Task(f"pbo-{name}-{d}-{instance}", params, value, -float(best) if math.isfinite(best) else None)


def tour(cities: int, instance: int = 0) -> Task:
    """A travelling salesman by random keys: the order of an array's entries is the tour."""
    title = f"tsp-array{cities}-{instance}"
    xy = stream(title).random((cities, 2))

    def value(given: dict[str, Any]) -> float:
        path = xy[np.argsort(given["x"], kind="stable")]
        return float(np.sum(np.hypot(*(path - np.roll(path, 1, axis=0)).T)))

    return Task(title, (vector("x", cities, 0.0, 1.0),), value, None)


def network(hidden: int, instance: int = 0) -> Task:
    """The weights of a small tanh network fitted to a curve: an array problem with symmetries."""
    title = f"net-array{3 * hidden + 1}-{instance}"
    rng = stream(title)
    x = np.linspace(-1, 1, 64)
    y = np.sin(3 * x + rng.uniform(-1, 1)) * rng.uniform(0.5, 1.5) + 0.3 * x

    def value(given: dict[str, Any]) -> float:
        w = np.asarray(given["x"], np.float64)
        a, b, c = w[:hidden], w[hidden : 2 * hidden], w[2 * hidden : 3 * hidden]
        out = np.tanh(np.outer(x, a) + b) @ c + w[-1]
        return float(np.mean((out - y) ** 2))

    return Task(title, (vector("x", 3 * hidden + 1, -3.0, 3.0),), value, 0.0)


def _unit(p: Param, v: Any) -> float:
    if p.log:
        return (math.log(v) - math.log(p.low)) / (math.log(p.high) - math.log(p.low))
    return (v - p.low) / (p.high - p.low)


def _typical(f: Callable[[Any], float], d: int, rng: np.random.Generator) -> float:
    floor = f(np.zeros(d))
    return max(1e-12, float(np.median([f(rng.uniform(-4, 4, d)) for _ in range(50)])) - floor)


def _spread(value: Callable[[dict[str, Any]], float], params: tuple[Param, ...], rng: np.random.Generator) -> float:
    """The inter-quartile range of the value over the box."""
    sample = [value({p.name: rng.uniform(p.low, p.high) for p in params}) for _ in range(200)]
    return float(np.subtract(*np.percentile(sample, [75, 25])))

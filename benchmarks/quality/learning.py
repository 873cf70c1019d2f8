"""Tuning tasks: scikit-learn models on the data that it bundles or generates, really trained, cross-validated, and
remembered on disk.

Numbers are rounded to a few digits before training, so that the table of evaluations is shared between optimizers.
"""

from __future__ import annotations

import json
import math
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from models import BOTH, KINDS
from task import Task

_CLASSES: dict[str, Any] = {"n_samples": 240, "n_redundant": 3, "class_sep": 0.8}
_ROWS = {"n_samples": 240}
_GENERATED: dict[str, tuple[str, dict[str, Any]]] = {
    "classes2": ("classification", {**_CLASSES, "n_features": 12, "n_informative": 4, "n_classes": 2}),
    "classes3": (
        "classification",
        {**_CLASSES, "n_features": 16, "n_informative": 5, "n_classes": 3, "n_clusters_per_class": 1, "flip_y": 0.03},
    ),
    "classes4": ("classification", {**_CLASSES, "n_features": 20, "n_informative": 6, "n_classes": 4, "flip_y": 0.06}),
    "moons": ("moons", {**_ROWS, "noise": 0.3}),
    "circles": ("circles", {**_ROWS, "noise": 0.15, "factor": 0.6}),
    "quantiles": ("gaussian_quantiles", {**_ROWS, "n_features": 6, "n_classes": 3}),
    "hastie": ("hastie_10_2", _ROWS),
    "friedman1": ("friedman1", {**_ROWS, "noise": 0.5}),
    "friedman2": ("friedman2", {**_ROWS, "noise": 0.5}),
    "friedman3": ("friedman3", {**_ROWS, "noise": 0.5}),
    "regression": ("regression", {**_ROWS, "n_features": 30, "n_informative": 8, "noise": 20.0}),
    "sparse": ("sparse_uncorrelated", {**_ROWS, "n_features": 12}),
}
"""Data sets that scikit-learn generates: by what, and with which arguments."""

_NUMBERS = {"diabetes", "friedman1", "friedman2", "friedman3", "regression", "sparse"}
"""Data sets whose targets are numbers."""

CACHE = Path(os.environ.get("ASYNCHOPPER_BENCH_CACHE", Path(__file__).with_name(".cache")))


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """240 rows of a bundled data set, or of one that is generated: the features scaled, and so are the targets of a
    regression."""
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    number = zlib.crc32(name.encode())
    if name in _GENERATED:
        make, more = _GENERATED[name]
        x, y = getattr(datasets, f"make_{make}")(random_state=number % 2**31, **more)
        x, y = x[:240], y[:240]
    else:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        keep = np.random.default_rng(number).permutation(len(y))[:240]
        x, y = x[keep], y[keep]
    if name in _NUMBERS:
        y = (y - y.mean()) / y.std()
    return StandardScaler().fit_transform(x), y


def learning(kind: str, name: str, measure: str = "accuracy") -> Task:
    """Minimise 1 - accuracy or the `log loss` (3-fold cross-validation) of a kind of model on a data set; 1 - r2 where its
    targets are numbers."""
    params, make = KINDS[kind]
    how = "r2" if name in _NUMBERS else measure
    label = f"{kind}-{name}" + ("-loss" if how == "log loss" else "")
    table = _Table(label)

    def value(given: dict[str, Any]) -> float:
        rounded = {k: _rounded(v) for k, v in given.items()}
        return table.get(json.dumps(rounded, sort_keys=True), lambda: _score(make, rounded, name, how))

    return Task(f"sklearn-{label}", params, value, None)


def _rounded(v: Any) -> Any:
    return float(f"{v:.3g}") if isinstance(v, float) else v.item() if hasattr(v, "item") else v


_DATA: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _score(make: Callable[[dict[str, Any]], Any], given: dict[str, Any], name: str, how: str) -> float:
    from sklearn.model_selection import KFold, StratifiedKFold

    if name not in _DATA:
        _DATA[name] = data(name)
    x, y = _DATA[name]
    folds = (KFold if how == "r2" else StratifiedKFold)(3, shuffle=True, random_state=0)
    more = {"regression": True} if how == "r2" and make in BOTH else {}
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for train, test in folds.split(x, y):
            try:
                model = make({**given, **more}).fit(x[train], y[train])
                if how == "log loss":
                    chances = model.predict_proba(x[test])
                    right = chances[np.arange(len(test)), np.searchsorted(model.classes_, y[test])]
                    losses.append(-float(np.log(np.clip(right, 1e-6, 1.0)).mean()))
                else:
                    losses.append(1.0 - float(model.score(x[test], y[test])))
            except (ValueError, np.linalg.LinAlgError):
                losses.append(2.0)
    loss = float(np.mean(losses))
    return min(loss, 1e3) if math.isfinite(loss) else 2.0


class _Table:
    """Evaluations that were made before; lines are appended, so that several processes may share the file."""

    def __init__(self, name: str) -> None:
        self.path = CACHE / "evaluations" / f"{name}.jsonl"
        self.known: dict[str, float] | None = None

    def get(self, key: str, make: Callable[[], float]) -> float:
        if self.known is None:
            self.known = {}
            if self.path.exists():
                for line in self.path.read_text().splitlines():
                    try:
                        k, v = json.loads(line)
                    except ValueError:  # a line that another process is still writing
                        continue
                    self.known[k] = v
        if key not in self.known:
            self.known[key] = v = make()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as f:
                f.write(json.dumps([key, v]) + "\n")
        return self.known[key]

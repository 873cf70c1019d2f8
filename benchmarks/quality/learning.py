"""Tuning tasks: scikit-learn models on its bundled data, really trained, cross-validated, and remembered on disk.

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
from spaces import number, option, whole
from task import Task

CACHE = Path(os.environ.get("ASYNCHOPPER_BENCH_CACHE", Path(__file__).with_name(".cache")))


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets
    from sklearn.preprocessing import StandardScaler

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    keep = rng.permutation(len(y))[:240]
    return StandardScaler().fit_transform(x[keep]), y[keep]


def svm(given: dict[str, Any]) -> Any:
    from sklearn.svm import SVC

    more = {k: given[k] for k in ("gamma", "degree", "coef0") if k in given}
    return SVC(C=given["C"], kernel=given["kernel"], class_weight=given["class_weight"], max_iter=2000, **more)


def forest(given: dict[str, Any]) -> Any:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    regression = given.pop("regression", False)
    made = DecisionTreeRegressor if regression else DecisionTreeClassifier
    return made(random_state=0, **given)


def several(given: dict[str, Any]) -> Any:
    """One of four families of models, each with parameters of its own."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    kind = given["model"]
    if kind == "svc":
        return SVC(C=given["svc_C"], gamma=given["svc_gamma"], max_iter=2000)
    if kind == "knn":
        return KNeighborsClassifier(given["knn_k"], weights=given["knn_weights"], p=given["knn_p"])
    if kind == "sgd":
        return SGDClassifier(
            loss=given["sgd_loss"], alpha=given["sgd_alpha"], l1_ratio=given["sgd_l1"], penalty="elasticnet",
            max_iter=30, tol=None, random_state=0,
        )  # fmt: skip
    return GaussianNB(var_smoothing=given["nb_smoothing"])


def network(given: dict[str, Any]) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(
        (given["units"],), activation=given["activation"], alpha=given["alpha"], learning_rate_init=given["lr"],
        batch_size=given["batch"], max_iter=given["epochs"], beta_1=given["beta_1"], solver=given["solver"],
        random_state=0,
    )  # fmt: skip


def ridge(given: dict[str, Any]) -> Any:
    from sklearn.kernel_ridge import KernelRidge

    return KernelRidge(**given)


_SVM = (
    number("C", 1e-3, 1e4, log=True),
    option("kernel", "linear", "rbf", "poly", "sigmoid"),
    option("class_weight", None, "balanced"),
    number("gamma", 1e-5, 10.0, log=True, under=("kernel", "rbf")),
    whole("degree", 2, 5, under=("kernel", "poly")),
    number("coef0", 0.0, 1.0, under=("kernel", "poly")),
)
_TREE = (
    whole("max_depth", 1, 20),
    whole("min_samples_split", 2, 60, log=True),
    whole("min_samples_leaf", 1, 30, log=True),
    number("min_impurity_decrease", 1e-5, 0.1, log=True),
    number("max_features", 0.1, 1.0),
    number("ccp_alpha", 1e-5, 0.1, log=True),
    option("splitter", "best", "random"),
)
_SEVERAL = (
    option("model", "svc", "knn", "sgd", "nb"),
    number("svc_C", 1e-3, 1e4, log=True, under=("model", "svc")),
    number("svc_gamma", 1e-5, 10.0, log=True, under=("model", "svc")),
    whole("knn_k", 1, 50, log=True, under=("model", "knn")),
    option("knn_weights", "uniform", "distance", under=("model", "knn")),
    number("knn_p", 1.0, 5.0, under=("model", "knn")),
    option("sgd_loss", "hinge", "log_loss", "modified_huber", under=("model", "sgd")),
    number("sgd_alpha", 1e-6, 1.0, log=True, under=("model", "sgd")),
    number("sgd_l1", 0.0, 1.0, under=("model", "sgd")),
    number("nb_smoothing", 1e-12, 1.0, log=True, under=("model", "nb")),
)
_NETWORK = (
    whole("units", 4, 64, log=True),
    option("activation", "relu", "tanh", "logistic"),
    option("solver", "adam", "sgd"),
    number("alpha", 1e-6, 1.0, log=True),
    number("lr", 1e-4, 0.3, log=True),
    option("batch", 16, 32, 64, 128, ordinal=True),
    whole("epochs", 3, 25),
    number("beta_1", 0.5, 0.99),
)
_RIDGE = (
    number("alpha", 1e-6, 1e2, log=True),
    option("kernel", "rbf", "laplacian", "polynomial", "sigmoid"),
    number("gamma", 1e-5, 1e1, log=True),
    number("coef0", 0.0, 2.0),
    whole("degree", 1, 5),
)

_KINDS: dict[str, tuple[tuple[Any, ...], Callable[[dict[str, Any]], Any], str]] = {
    "svm": (_SVM, svm, "neg_log"),
    "tree": (_TREE, forest, "accuracy"),
    "several": (_SEVERAL, several, "accuracy"),
    "network": (_NETWORK, network, "accuracy"),
    "ridge": (_RIDGE, ridge, "r2"),
}


def learning(kind: str, name: str) -> Task:
    """Minimise 1 - score (3-fold cross-validation) of a kind of model on a data set."""
    params, make, how = _KINDS[kind]
    table = _Table(f"{kind}-{name}")

    def value(given: dict[str, Any]) -> float:
        rounded = {k: _rounded(v) for k, v in given.items()}
        return table.get(json.dumps(rounded, sort_keys=True), lambda: _score(make(dict(rounded)), name, how))

    return Task(f"sklearn-{kind}-{name}", params, value, None)


def _rounded(v: Any) -> Any:
    return float(f"{v:.3g}") if isinstance(v, float) else v.item() if hasattr(v, "item") else v


_DATA: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _score(model: Any, name: str, how: str) -> float:
    from sklearn.metrics import get_scorer
    from sklearn.model_selection import KFold, StratifiedKFold

    if name not in _DATA:
        _DATA[name] = data(name)
    x, y = _DATA[name]
    folds = (KFold if how == "r2" else StratifiedKFold)(3, shuffle=True, random_state=0)
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for train, test in folds.split(x, y):
            try:
                model.fit(x[train], y[train])
                if how == "r2":
                    scores.append(get_scorer("r2")(model, x[test], y[test]))
                else:
                    scores.append(float(np.mean(model.predict(x[test]) == y[test])))
            except (ValueError, np.linalg.LinAlgError):
                scores.append(-1.0)
    return max(-1e3, 1.0 - float(np.mean(scores))) if math.isfinite(np.mean(scores)) else 2.0


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

"""The scikit-learn models of the tuning tasks: of each kind its space, and how one is made of what was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spaces import Param, number, option, whole


def svm(given: dict[str, Any]) -> Any:
    from sklearn.svm import SVC

    more = {k: given[k] for k in ("gamma", "degree", "coef0") if k in given}
    return SVC(C=given["C"], kernel=given["kernel"], class_weight=given["class_weight"], max_iter=2000, **more)


def tree(given: dict[str, Any]) -> Any:
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(random_state=0, **given)


def _svc(given: dict[str, Any]) -> Any:
    from sklearn.svm import SVC

    return SVC(C=given["svc_C"], gamma=given["svc_gamma"], max_iter=2000)


def _knn(given: dict[str, Any]) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(given["knn_k"], weights=given["knn_weights"], p=given["knn_p"])


def several(given: dict[str, Any]) -> Any:
    """One of four families of models, each with parameters of its own."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.naive_bayes import GaussianNB

    kind = given["model"]
    if kind == "svc":
        return _svc(given)
    if kind == "knn":
        return _knn(given)
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


def logistic(given: dict[str, Any]) -> Any:
    from sklearn.linear_model import LogisticRegression

    more = {"l1_ratio": 1.0 if given["penalty"] == "l1" else 0.0}
    kept = {k: v for k, v in given.items() if k != "penalty"}
    return LogisticRegression(solver="saga", max_iter=30, random_state=0, **kept, **more)


def pipeline(given: dict[str, Any]) -> Any:
    """A scaler, a choice of features or components, and one of three families of models."""
    from sklearn.decomposition import PCA
    from sklearn.feature_selection import SelectPercentile
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    steps: list[Any] = []
    if given["scale"] != "none":
        steps.append({"standard": StandardScaler, "range": MinMaxScaler, "robust": RobustScaler}[given["scale"]]())
    if given["reduce"] == "pca":
        steps.append(PCA(given["pca_part"], svd_solver="full", random_state=0))
    elif given["reduce"] == "best":
        steps.append(SelectPercentile(percentile=100 * given["best_part"]))
    kind = given["model"]
    if kind == "knn":
        model: Any = _knn(given)
    elif kind == "svc":
        model = _svc(given)
    else:
        model = DecisionTreeClassifier(
            max_depth=given["tree_depth"], min_samples_leaf=given["tree_leaf"], criterion=given["tree_criterion"],
            random_state=0,
        )  # fmt: skip
    return make_pipeline(*steps, model)


def boosting(given: dict[str, Any]) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    made = GradientBoostingRegressor if given.pop("regression", False) else GradientBoostingClassifier
    return made(random_state=0, **given)


def trees(given: dict[str, Any]) -> Any:
    """Several randomised trees."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    if given.pop("regression", False):
        given["criterion"] = "squared_error"
        return ExtraTreesRegressor(random_state=0, **given)
    return ExtraTreesClassifier(random_state=0, **given)


def svr(given: dict[str, Any]) -> Any:
    from sklearn.svm import SVR

    return SVR(max_iter=2000, **given)


def linear(given: dict[str, Any]) -> Any:
    """One of three linear models, on the features or on their products, too."""
    from sklearn.linear_model import ElasticNet, HuberRegressor, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    kind = given["model"]
    if kind == "net":
        model: Any = ElasticNet(alpha=given["net_alpha"], l1_ratio=given["net_l1"], max_iter=200)
    elif kind == "ridge":
        model = Ridge(alpha=given["ridge_alpha"])
    else:
        model = HuberRegressor(epsilon=given["huber_epsilon"], alpha=given["huber_alpha"], max_iter=30)
    return make_pipeline(PolynomialFeatures(given["degree"], interaction_only=given["interactions"]), model)


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
_LOGISTIC = (
    number("C", 1e-4, 1e3, log=True),
    option("penalty", "l1", "l2"),
    option("class_weight", None, "balanced"),
    option("fit_intercept", True, False),
    number("tol", 1e-5, 1e-1, log=True),
)
_PIPELINE = (
    option("scale", "standard", "range", "robust", "none"),
    option("reduce", "no", "pca", "best"),
    number("pca_part", 0.3, 0.99, under=("reduce", "pca")),
    number("best_part", 0.1, 1.0, under=("reduce", "best")),
    option("model", "knn", "svc", "tree"),
    whole("knn_k", 1, 40, log=True, under=("model", "knn")),
    option("knn_weights", "uniform", "distance", under=("model", "knn")),
    number("knn_p", 1.0, 5.0, under=("model", "knn")),
    number("svc_C", 1e-3, 1e4, log=True, under=("model", "svc")),
    number("svc_gamma", 1e-5, 10.0, log=True, under=("model", "svc")),
    whole("tree_depth", 1, 20, under=("model", "tree")),
    whole("tree_leaf", 1, 30, log=True, under=("model", "tree")),
    option("tree_criterion", "gini", "entropy", under=("model", "tree")),
)
_BOOSTING = (
    whole("n_estimators", 3, 30, log=True),
    number("learning_rate", 0.01, 1.0, log=True),
    whole("max_depth", 1, 6),
    number("subsample", 0.3, 1.0),
    number("max_features", 0.1, 1.0),
    whole("min_samples_leaf", 1, 30, log=True),
    number("min_impurity_decrease", 1e-6, 1e-1, log=True),
)
_TREES = (
    whole("n_estimators", 2, 14),
    option("criterion", "gini", "entropy"),
    number("max_features", 0.1, 1.0),
    whole("min_samples_split", 2, 20),
    whole("min_samples_leaf", 1, 20),
    option("bootstrap", False, True),
    number("max_samples", 0.2, 1.0, under=("bootstrap", True)),
    whole("max_depth", 2, 20),
)
_SVR = (
    number("C", 1e-3, 1e3, log=True),
    number("epsilon", 1e-4, 1.0, log=True),
    option("kernel", "linear", "rbf", "poly"),
    number("gamma", 1e-5, 10.0, log=True, under=("kernel", "rbf")),
    whole("degree", 2, 4, under=("kernel", "poly")),
    number("coef0", 0.0, 1.0, under=("kernel", "poly")),
)
_LINEAR = (
    option("model", "net", "ridge", "huber"),
    number("net_alpha", 1e-5, 10.0, log=True, under=("model", "net")),
    number("net_l1", 0.0, 1.0, under=("model", "net")),
    number("ridge_alpha", 1e-5, 1e4, log=True, under=("model", "ridge")),
    number("huber_epsilon", 1.01, 3.0, under=("model", "huber")),
    number("huber_alpha", 1e-6, 1e2, log=True, under=("model", "huber")),
    option("degree", 1, 2, ordinal=True),
    option("interactions", False, True),
)

KINDS: dict[str, tuple[tuple[Param, ...], Callable[[dict[str, Any]], Any]]] = {
    "svm": (_SVM, svm),
    "tree": (_TREE, tree),
    "several": (_SEVERAL, several),
    "network": (_NETWORK, network),
    "ridge": (_RIDGE, ridge),
    "logistic": (_LOGISTIC, logistic),
    "pipeline": (_PIPELINE, pipeline),
    "boosting": (_BOOSTING, boosting),
    "trees": (_TREES, trees),
    "svr": (_SVR, svr),
    "linear": (_LINEAR, linear),
}
"""The space of a kind, and what makes one of its models of what was given, which it may change."""

BOTH = (boosting, trees)
"""What classifies, unless it is told that it is for `regression`."""

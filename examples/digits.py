"""Tunes a classifier of handwritten digits by cross-validation, two evaluations at a time, in threads.

Stop it with Ctrl-C and run it again: it carries on. Run it once more when it is finished: it searches on, from what it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import asynchopper as ah

STEPS = 60
CHECKPOINT = "digits.ckpt"
IMAGES, LABELS = load_digits(return_X_y=True)

SPACE = {
    "model": ah.choice(
        {"kind": "svm", "C": ah.float(0.1, 1000, "0.2g"), "gamma": ah.float(1e-5, 1e-1, "0.2g")},
        {"kind": "trees", "trees": ah.int(50, 400, multiple_of=50), "features": ah.float(0.05, 0.5, "0.2f")},
    ),
    "scaled": ah.bool(),
}


def accuracy(params: dict[str, Any]) -> Iterator[float]:
    """Mean accuracy over the folds so far; the last one counts, and an early one that is poor ends the evaluation."""
    model = params["model"]
    if model["kind"] == "svm":
        classifier = SVC(C=model["C"], gamma=model["gamma"])
    else:
        classifier = ExtraTreesClassifier(model["trees"], max_features=model["features"], random_state=0)
    pipeline = make_pipeline(StandardScaler(), classifier) if params["scaled"] else classifier
    scores: list[float] = []
    for train, test in StratifiedKFold(8, shuffle=True, random_state=0).split(IMAGES, LABELS):
        pipeline.fit(IMAGES[train], LABELS[train])
        scores.append(pipeline.score(IMAGES[test], LABELS[test]))
        yield float(np.mean(scores))


async def main() -> None:
    search = ah.Search(SPACE, seed=1)
    pruner = ah.pruners.QuantilePruner(0.5)
    best = await search.run(accuracy, "maximize", steps=STEPS, concurrency=2, pruner=pruner, checkpoint_path=CHECKPOINT)
    print(f"best accuracy {search.best_value:.4f} with {best}" if best else "nothing was evaluated to its end yet")
    if search.outcome and search.outcome.reason == "steps":
        print(f"finished; all of it is in {CHECKPOINT}. Run this again for {STEPS} trials more.")
    else:
        print(f"stopped after {len(search.history)} trials. Run this again to carry on.")


if __name__ == "__main__":
    asyncio.run(main())

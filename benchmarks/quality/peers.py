"""The other optimizers, each behind `ask` and `tell`. All of them are optional; what cannot be imported is left out."""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from spaces import Param, active
from task import Task


class OptunaPeer:
    """Optuna through `study.ask` and `study.tell`, in define-by-run form."""

    def __init__(self, task: Task, seed: int, sampler: str) -> None:
        import optuna

        warnings.filterwarnings("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        made = (
            optuna.samplers.TPESampler(seed=seed)
            if sampler == "tpe"
            else optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        )
        self.study = optuna.create_study(sampler=made)
        self.params = task.params

    def ask(self) -> tuple[Any, dict[str, Any]]:
        trial = self.study.ask()
        given: dict[str, Any] = {}
        for p in self.params:
            if not active(p, given):
                continue
            if p.kind == "float":
                given[p.name] = trial.suggest_float(p.name, p.low, p.high, log=p.log)
            elif p.kind == "int":
                given[p.name] = trial.suggest_int(p.name, int(p.low), int(p.high), log=p.log)
            elif p.kind == "array":
                given[p.name] = np.array([trial.suggest_float(f"{p.name}{i}", p.low, p.high) for i in range(p.size)])
            else:
                given[p.name] = trial.suggest_categorical(p.name, p.options)
        return trial, given

    def tell(self, token: Any, value: float) -> None:
        self.study.tell(token, value)


class NevergradPeer:
    """Nevergrad with its ask and tell; conditional parameters are always there, and ignored where they do not apply."""

    def __init__(self, task: Task, steps: int, slots: int, seed: int, name: str) -> None:
        import nevergrad as ng

        warnings.filterwarnings("ignore")
        logging.getLogger("nevergrad").setLevel(logging.ERROR)

        def leaf(p: Param) -> Any:
            if p.kind == "array":
                return ng.p.Array(shape=(p.size,), lower=p.low, upper=p.high)
            if p.kind in ("cat", "ord"):
                return (ng.p.TransitionChoice if p.kind == "ord" else ng.p.Choice)(list(p.options))
            if p.log:
                made: Any = ng.p.Log(lower=p.low, upper=p.high)
            else:
                made = ng.p.Scalar(lower=p.low, upper=p.high)
            return made.set_integer_casting() if p.kind == "int" else made

        self.params = task.params
        numbers = all(p.kind == "float" and not p.log and p.under is None for p in task.params)
        self.whole = numbers and len({(p.low, p.high) for p in task.params}) == 1
        space: Any
        if self.whole:  # one array, as Nevergrad's own benchmarks have it
            space = ng.p.Array(shape=(len(task.params),), lower=task.params[0].low, upper=task.params[0].high)
        else:
            space = ng.p.Dict(**{p.name: leaf(p) for p in task.params})
        space.random_state = np.random.RandomState(seed)
        self.optimizer = ng.optimizers.registry[name](space, budget=steps, num_workers=slots)

    def ask(self) -> tuple[Any, dict[str, Any]]:
        candidate = self.optimizer.ask()
        if self.whole:
            return candidate, {p.name: float(v) for p, v in zip(self.params, candidate.value, strict=True)}
        given: dict[str, Any] = {}
        for p in self.params:
            if active(p, given):
                v = candidate.value[p.name]
                given[p.name] = int(min(max(round(v), p.low), p.high)) if p.kind == "int" else v
        return candidate, given

    def tell(self, token: Any, value: float) -> None:
        self.optimizer.tell(token, value)


class HyperoptPeer:
    """Hyperopt's TPE; its suggest function is called as its own asynchronous queue calls it."""

    def __init__(self, task: Task, seed: int) -> None:
        import hyperopt
        from hyperopt import hp

        logging.getLogger("hyperopt").setLevel(logging.ERROR)

        def leaf(p: Param) -> Any:
            if p.kind == "float":
                return (
                    hp.loguniform(p.name, math.log(p.low), math.log(p.high))
                    if p.log
                    else hp.uniform(p.name, p.low, p.high)
                )
            if p.kind == "int":
                if p.log:
                    return hp.qloguniform(p.name, math.log(p.low), math.log(p.high), 1)
                return hp.uniformint(p.name, int(p.low), int(p.high))
            if p.kind == "array":
                return [hp.uniform(f"{p.name}{i}", p.low, p.high) for i in range(p.size)]
            inner = {o: [q for q in task.params if q.under == (p.name, o)] for o in p.options}
            return hp.choice(p.name, [{"=": o, **{q.name: leaf(q) for q in qs}} for o, qs in inner.items()])

        space = {p.name: leaf(p) for p in task.params if p.under is None}
        self.task = task
        self.domain = hyperopt.base.Domain(lambda given: 0.0, space)
        self.trials = hyperopt.Trials()
        self.rng = np.random.default_rng(seed)
        self.base = hyperopt

    def ask(self) -> tuple[Any, dict[str, Any]]:
        ids = self.trials.new_trial_ids(1)
        doc = self.base.tpe.suggest(ids, self.domain, self.trials, int(self.rng.integers(2**31 - 1)))[0]
        doc["state"] = self.base.JOB_STATE_RUNNING
        self.trials.insert_trial_docs([doc])
        self.trials.refresh()
        given = self.base.space_eval(self.domain.expr, {k: v[0] for k, v in doc["misc"]["vals"].items() if v})
        return ids[0], self._flat(given)

    def _flat(self, given: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        kinds = {p.name: p for p in self.task.params}
        for name, v in given.items():
            if name == "=":
                continue
            if isinstance(v, dict):
                out[name] = v["="]
                out.update(self._flat(v))
            elif kinds[name].kind == "int":
                out[name] = int(min(max(v, kinds[name].low), kinds[name].high))
            elif kinds[name].kind == "array":
                out[name] = np.array(v)
            else:
                out[name] = v
        return out

    def tell(self, token: Any, value: float) -> None:
        for doc in reversed(self.trials._dynamic_trials):
            if doc["tid"] == token:
                doc["state"] = self.base.JOB_STATE_DONE
                doc["result"] = {"loss": value, "status": "ok"}
                break
        self.trials.refresh()


class PyHopperPeer:
    """PyHopper's own loop, turned inside out: its candidate functions, schedule and duplicate rule, step for step.

    A duplicate costs a step, as it does there. Its draws come from unseeded generators, which are seeded here.
    """

    def __init__(self, task: Task, steps: int, seed: int) -> None:
        import pyhopper
        from pyhopper.run_context import ScheduledRun

        def leaf(p: Param) -> Any:
            if p.kind == "float":
                return pyhopper.float(p.low, p.high, log=True) if p.log else pyhopper.float(p.low, p.high)
            if p.kind == "int":  # it has no integers on a logarithmic scale
                return pyhopper.int(int(p.low), int(p.high))
            if p.kind == "array":
                return pyhopper.float(p.low, p.high, shape=(p.size,))
            inner = {o: [q for q in task.params if q.under == (p.name, o)] for o in p.options}
            if not any(inner.values()):
                return pyhopper.choice(list(p.options), is_ordinal=p.kind == "ord")
            return pyhopper.choice([{"=": o, **{q.name: leaf(q) for q in qs}} for o, qs in inner.items()])

        self.rng = np.random.default_rng(seed)
        self._true_rng = np.random.default_rng
        with _Seeded(self.rng):
            self.search = pyhopper.Search({p.name: leaf(p) for p in task.params if p.under is None})
        self.schedule = ScheduledRun(steps, None, False, seeding_ratio=0.25, start_temperature=1, end_temperature=0.2)
        self.first = True
        self.temperature = 1.0

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        from pyhopper.utils import Candidate

        search, schedule = self.search, self.schedule
        with _Seeded(self.rng):
            if self.first:
                self.first = False
                schedule.increment_step()
                candidate = search._best_solution
                search._f_cache.stage(candidate.unwrapped_value)
                self.temperature = schedule.temperature
                return candidate, _flat(candidate.unwrapped_value)
            while not schedule.is_timeout(0):
                if schedule.is_in_seeding_mode() or search._best_f is None:
                    candidate = Candidate(search.sample_solution())
                else:
                    candidate = Candidate(search.mutate_from_best(temperature=self.temperature))
                known = candidate.unwrapped_value in search._f_cache
                if known:
                    self.temperature = max(self.temperature * 1.05, 1)
                else:
                    search._f_cache.stage(candidate.unwrapped_value)
                    self.temperature = schedule.temperature
                schedule.increment_step()
                if not known:
                    return candidate, _flat(candidate.unwrapped_value)
        return None

    def tell(self, token: Any, value: float) -> None:
        search = self.search
        search._f_cache.commit(token.unwrapped_value, value)
        if search._best_f is None or value < search._best_f:
            search._best_solution, search._best_f = token, value


class _Seeded:
    """`np.random.default_rng()` without a seed gives `rng` inside the block."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __enter__(self) -> None:
        self.before = np.random.default_rng
        np.random.default_rng = lambda *a, **k: self.before(*a, **k) if a or k else self.rng  # type: ignore[assignment]  # put back on exit
        seed = int(self.rng.integers(2**31 - 1))
        np.random.seed(seed)
        random.seed(seed)

    def __exit__(self, *_: object) -> None:
        np.random.default_rng = self.before


def _flat(given: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, v in given.items():
        if isinstance(v, dict):
            out[name] = v["="]
            out.update(_flat({k: x for k, x in v.items() if k != "="}))
        else:
            out[name] = v
    return out


def _nevergrad(name: str) -> Callable[[Task, int, int, int], Any]:
    return lambda task, steps, slots, seed: NevergradPeer(task, steps, slots, seed, name)


PEERS: dict[str, Callable[[Task, int, int, int], Any]] = {
    "pyhopper": lambda task, steps, slots, seed: PyHopperPeer(task, steps, seed),
    "optuna-tpe": lambda task, steps, slots, seed: OptunaPeer(task, seed, "tpe"),
    "optuna-cma": lambda task, steps, slots, seed: OptunaPeer(task, seed, "cma"),
    "ng-NGOpt": _nevergrad("NGOpt"),
    "ng-OnePlusOne": _nevergrad("OnePlusOne"),
    "ng-CMA": _nevergrad("CMA"),
    "hyperopt-tpe": lambda task, steps, slots, seed: HyperoptPeer(task, seed),
}

"""What the contract for shared logs says to them."""

from __future__ import annotations

import orjson

from asynchopper.storage import Ask, Grant, Tell

RUN = orjson.dumps({"kind": "run", "budget": {"steps": 1}, "base": {"steps": 0, "elapsed": 0.0, "cost": 0.0}})


def ask(n: int, key: str = "") -> Ask:
    """A candidate that can be told from others by its number."""
    return Ask(key, b'"params":{"x":%d.5},"origin":"seeding"}' % n)


OLD = Ask("", b"")


def tell(grant: Grant, value: float = 1.0) -> Tell:
    """The end of an evaluation."""
    body = {"kind": "told", "id": grant.id, "attempt": grant.attempt, "state": "completed", "value": value}
    return Tell("told", grant.id, grant.attempt, orjson.dumps(body | {"seconds": 0.0, "elapsed": 0.0}))


def back(grant: Grant) -> Tell:
    """An evaluation that was taken away."""
    body = {"kind": "told", "id": grant.id, "attempt": grant.attempt, "state": "interrupted"}
    return Tell("back", grant.id, grant.attempt, orjson.dumps(body | {"seconds": 0.0, "elapsed": 0.0}))


def saved(grant: Grant) -> Tell:
    """What an objective saved."""
    body = {"kind": "saved", "id": grant.id, "attempt": grant.attempt, "data": 1}
    return Tell("saved", grant.id, grant.attempt, orjson.dumps(body))

"""Facts to bytes and back: one JSON object a record, with its sequence number and a checksum.

A framed line is the record's JSON with `"seq"`, sometimes `"left"`, and `"crc"` added as its last members. `left` says how
many records of the same batch follow, where any do; `crc` is the CRC-32 (zlib's) of the line's bytes up to the comma before
it. Readers skip kinds that they do not know, and refuse a newer major version.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from asynchopper.errors import CheckpointCorrupted, CheckpointVersionError
from asynchopper.packed import pack, unpack
from asynchopper.space import Space
from asynchopper.state import Asked, Ended, Fact, Finished, Header, PrunerSaw, Run, Saved, Told
from asynchopper.trial import STATES
from asynchopper.values import COUNT_LIMIT, MAX_DEPTH, Json, as_text, from_json, spell, to_json, unspell

FORMAT = (2, 0)
"""Major and minor version. A newer minor adds kinds and members that older readers may skip."""
_WITHOUT_TRIALS = (1, 0)
"""The version of a log in which each trial has records of its own, which any reader can read."""

_ADDED = frozenset({"seq", "left", "crc"})
_DEPTH_LIMIT = MAX_DEPTH + 4  # a value of the greatest depth, in the places where records hold one
_VALUES_LIMIT = 2**22  # in one record: what a parser makes of a hostile line stays below some 400 MB
_TAIL = re.compile(rb',"seq":(0|[1-9][0-9]{0,15})(?:,"left":([1-9][0-9]{0,8}))?,"crc":(0|[1-9][0-9]{0,9})\}$')
_TAIL_SIZE = 64  # bytes; the longest tail has 62


def encode(fact: Fact, space: Space) -> bytes:
    """A fact as a JSON object. Raises `TypeError` when a value has no JSON form, `ValueError` for more than 4 million."""
    if isinstance(fact, Told):  # the two that are many, before a `match`, which looks up each of their members
        return _dumped(_told_body(fact))
    if isinstance(fact, Asked):
        body: dict[str, Json] = {
            "kind": "asked",
            "id": fact.id,
            "attempt": fact.attempt,
            "params": _params(fact, space),
        }
        return _dumped(body | _behind_params(fact))
    match fact:
        case Saved(id, attempt, data, elapsed):
            body = {"kind": "saved", "id": id, "attempt": attempt, "data": to_json(data)}
            if elapsed:
                body["elapsed"] = round(elapsed, 6)
        case Finished(table, start, end):
            body = {"kind": "trials", **pack(table, start, end)}
        case Header(search_id, direction, seed, described, packed):
            version = FORMAT if packed else _WITHOUT_TRIALS
            body = {
                "kind": "header",
                "format": f"{version[0]}.{version[1]}",
                "search": search_id,
                "direction": direction,
                "seed": to_json(seed),
                "space": described,
            }
        case Run(budget, base_steps, base_elapsed, base_cost, described, started, host, pid, elapsed):
            base = {"steps": base_steps, "elapsed": round(base_elapsed, 6), "cost": spell(base_cost)}
            body = {"kind": "run", "budget": budget, "base": base, "started": started, "host": host, "pid": pid}
            if described is not None:
                body["space"] = described
            if elapsed:
                body["elapsed"] = round(elapsed, 6)
        case PrunerSaw(name, data):
            body = {"kind": "pruner", "name": name, "state": to_json(data)}
        case Ended(reason, elapsed):
            body = {"kind": "ended", "reason": reason, "elapsed": round(elapsed, 6)}
    return _dumped(body)


def encode_candidate(fact: Asked, space: Space) -> tuple[bytes, bytes]:
    """The parameters of an `asked` record, and all of the record from its `"params"` on. Raises as `encode` does."""
    params = orjson.dumps(_params(fact, space))
    if len(params) > _VALUES_LIMIT:
        encode(fact, space)
    return params, b'"params":%b,%b' % (params, orjson.dumps(_behind_params(fact))[1:])


def _params(fact: Asked, space: Space) -> dict[str, Json]:
    params = space.encode(fact.values)
    if fact.foreign:
        params |= {path: to_json(v) for path, v in fact.foreign.items()}
    return params


def _behind_params(fact: Asked) -> dict[str, Json]:
    return {"origin": fact.origin} if fact.note is None else {"origin": fact.origin, "note": fact.note}


def _told_body(fact: Told) -> dict[str, Json]:
    id, attempt, state, value, estimates, cost, seconds, elapsed, error = fact
    body: dict[str, Json] = {"kind": "told", "id": id, "attempt": attempt, "state": state}
    if state in ("completed", "nan"):
        body["value"] = spell(value)
    if estimates:
        body["estimates"] = [spell(x) for x in estimates]
    if cost:
        body["cost"] = spell(cost)
    body["seconds"] = round(seconds, 6)
    body["elapsed"] = round(elapsed, 6)
    if error is not None:
        body["error"] = error
    return body


def _dumped(body: dict[str, Json]) -> bytes:
    data = orjson.dumps(body)
    if len(data) > _VALUES_LIMIT and _values(data) > _VALUES_LIMIT:
        raise ValueError(f"a {body['kind']} record with more than {_VALUES_LIMIT} values")
    return data


def _too_deep(body: dict[str, Json]) -> bool:
    """Whether lists and objects are nested deeper than any version writes them."""
    level: list[Any] = [body]
    for _ in range(_DEPTH_LIMIT):
        within = [x for outer in level for x in (outer.values() if isinstance(outer, dict) else outer)]
        level = [x for x in within if isinstance(x, (dict, list))]
        if not level:
            return False
    return True


def _values(data: bytes) -> int:
    """At least as many as there are values in this JSON text, without parsing it."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def decode(data: bytes, space: Space) -> Fact | None:
    """The inverse of `encode`; `None` for a kind that this version does not know.

    Raises `ValueError` for what no version writes, `CheckpointVersionError` for a newer major version.
    """
    if len(data) > _VALUES_LIMIT and _values(data) > _VALUES_LIMIT:
        raise ValueError(f"a record with more than {_VALUES_LIMIT} values")
    body = orjson.loads(data)
    if not isinstance(body, dict):
        raise ValueError("a record is a JSON object")
    if data.count(b"[") + data.count(b"{") > _DEPTH_LIMIT and _too_deep(body):
        raise ValueError(f"a record nested more than {_DEPTH_LIMIT} levels deep")
    try:
        return _fact(body, space)
    except (KeyError, TypeError, OverflowError) as e:
        raise ValueError(f"a malformed {str(body.get('kind'))!r:.40} record ({type(e).__name__}: {e})") from None


def _fact(body: dict[str, Json], space: Space) -> Fact | None:
    kind = body["kind"]
    if kind == "asked":
        values, foreign = space.decode(_mapping(body["params"]), _generator)
        return Asked(
            _count(body["id"]),
            _count(body["attempt"]),
            values,
            as_text(body["origin"]),
            body.get("note"),
            foreign or None,
        )
    if kind == "told":
        if body["state"] not in STATES:
            raise ValueError(f"unknown trial state {body['state']!r:.40}")
        error = body.get("error")
        return Told(
            _count(body["id"]),
            _count(body["attempt"]),
            body["state"],
            unspell(body.get("value", "NaN")),
            tuple([unspell(x) for x in body.get("estimates", ())]),
            unspell(body.get("cost", 0.0)),
            unspell(body["seconds"]),
            unspell(body["elapsed"]),
            None if error is None else as_text(error),
        )
    if kind == "trials":
        table = unpack(body, space, _generator)
        return Finished(table, 0, len(table))
    if kind == "saved":
        elapsed = unspell(body.get("elapsed", 0.0))
        return Saved(_count(body["id"]), _count(body["attempt"]), from_json(body["data"]), elapsed)
    if kind == "header":
        packed = _major(body["format"]) >= FORMAT[0]
        direction, seed = body["direction"], from_json(body["seed"])
        if direction not in ("maximize", "minimize") or not isinstance(seed, int):
            raise ValueError("a header without a direction or a seed")
        return Header(as_text(body["search"]), direction, seed, dict(_mapping(body["space"])), packed)
    if kind == "run":
        base, described = body["base"], body.get("space")
        return Run(
            dict(_mapping(body["budget"])),
            _count(base["steps"]),
            unspell(base["elapsed"]),
            unspell(base["cost"]),
            None if described is None else dict(_mapping(described)),
            as_text(body["started"]),
            as_text(body["host"]),
            _count(body["pid"]),
            unspell(body.get("elapsed", 0.0)),
        )
    if kind == "pruner":
        return PrunerSaw(as_text(body["name"]), from_json(body["state"]))
    if kind == "ended":
        return Ended(as_text(body["reason"]), unspell(body["elapsed"]))
    return None


def _generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(0))


def _major(said: Json) -> int:
    """Raises for a version that this one cannot read."""
    major = as_text(said).partition(".")[0]
    if not major.isdecimal():
        raise ValueError(f"a header of format {said!r:.40}")
    if int(major) > FORMAT[0]:
        raise CheckpointVersionError(
            f"the checkpoint has format {said}, and this version of asynchopper reads up to {FORMAT[0]}.x; "
            "upgrade asynchopper to open it"
        )
    return int(major)


def _count(x: Json) -> int:
    if not isinstance(x, int) or isinstance(x, bool) or not 0 <= x < COUNT_LIMIT:
        raise ValueError(f"a count is expected, got {x!r:.40}")
    return x


def _mapping(x: Json) -> Mapping[str, Any]:
    if not isinstance(x, dict):
        raise ValueError(f"an object is expected, got {x!r:.40}")
    return x


def frame(payload: bytes, seq: int, left: int = 0) -> bytes:
    """A record as a line of a log; `left` records of its batch follow."""
    head = b'%b,"seq":%d,"left":%d' % (payload[:-1], seq, left) if left else b'%b,"seq":%d' % (payload[:-1], seq)
    return b'%b,"crc":%d}\n' % (head, zlib.crc32(head))


class Framed(NamedTuple):
    """What a whole line says of itself."""

    seq: int
    left: int
    size: int
    """Bytes of the record itself, without the brace that closes it."""


def unframe(line: bytes) -> Framed:
    """Raises `CheckpointCorrupted` unless `line` (without its end) is a record, unchanged."""
    base = max(0, len(line) - _TAIL_SIZE)
    found = _TAIL.search(line, base)
    if found is None:
        raise CheckpointCorrupted("this is not a record of asynchopper's")
    seq, left, crc = found.groups()
    with memoryview(line) as view:
        if zlib.crc32(view[: found.start(3) - len(',"crc":')]) != int(crc):
            raise CheckpointCorrupted(f"record {int(seq)} was changed: its checksum does not match")
    return Framed(int(seq), int(left or 0), found.start())


def bare(data: bytes) -> bytes:
    """A stored record as it was appended: without what a log adds to it."""
    body = orjson.loads(data)
    return lean(orjson.dumps({k: v for k, v in body.items() if k not in _ADDED}))


def lean(data: bytes) -> bytes:
    """A copy for those who keep many: each that orjson has made holds 4 KB, however short it is."""
    return bytes(memoryview(data))


def check(line: bytes, seq: int) -> int:
    """How many records of the same batch follow. Raises `CheckpointCorrupted` unless `line` is record `seq`, unchanged."""
    found = unframe(line)
    if found.seq != seq:
        raise CheckpointCorrupted(f"record {seq} is missing: in its place is record {found.seq}")
    return found.left

"""Stored candidates of another space: what stands in for a parameter in an option, and what it stood for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

STAND_IN = "*"
"""A parameter, where an option that holds some is stored: its value has a path of its own."""


def overlaid(params: dict[Any, Any], foreign: Mapping[str, Any], paths: Collection[str]) -> dict[Any, Any]:
    """`params` with the stored values that the present space, of which these are the `paths`, could not take, at their own."""
    for path, value in foreign.items():  # owners come before what they own
        parents, last = _parted(params, path)
        node: Any = params
        for at, key in enumerate(parents, 1):
            above, node = node, node.setdefault(key, {}) if isinstance(node, dict) else _item(node, key)
            if _stands_for_one(node) and {*parents[at:], last} == {"value"}:  # an option that is a parameter itself
                node, last = above, key
                break
        if isinstance(node, dict):
            inside = isinstance(value, (dict, list))
            node[last] = _filled(value, node.get(last), path, paths) if inside else value
        elif isinstance(node, list) and _item(node, last) is not None:
            node[int(last)] = value
        else:  # inside of something that is no dict any more
            params[path] = value
    return params


def found(params: dict[Any, Any], path: str) -> Any:
    """What stands at a path of `overlaid` parameters; `None` where nothing does."""
    parents, last = _parted(params, path)
    node: Any = params
    for key in (*parents, last):
        node = node.get(key) if isinstance(node, dict) else _item(node, key)
    return node


def outlined(value: Any) -> bool:
    """Whether a stored option holds what stands for a parameter."""
    if isinstance(value, dict):
        return any(map(outlined, value.values()))
    return any(map(outlined, value)) if isinstance(value, list) else _stands_for_one(value)


def _stands_for_one(value: Any) -> bool:
    """Whether it stands for a parameter, where an option that holds some is stored; of several alike, for a later one."""
    return isinstance(value, str) and (value == STAND_IN or value.startswith(f'"{STAND_IN}" #'))


def _parted(params: dict[Any, Any], path: str) -> tuple[list[str], str]:
    *parents, last = path.split(".") if path not in params else [path]
    return parents, last


def _item(node: Any, key: str) -> Any:
    return node[int(key)] if isinstance(node, list) and key.isdecimal() and int(key) < len(node) else None


def _filled(outline: Any, built: Any, path: str, paths: Collection[str]) -> Any:
    """A copy of a stored option with what is built of the parameters in it that the space has; the others come later, at
    paths of their own."""
    if isinstance(outline, dict):
        by_name = {str(k): v for k, v in built.items()} if isinstance(built, dict) else {}
        return {k: _filled(v, by_name.get(k, v), f"{path}.{k}", paths) for k, v in outline.items()}
    if isinstance(outline, list):
        alike = built if isinstance(built, (list, tuple)) and len(built) == len(outline) else outline
        pairs = enumerate(zip(outline, alike, strict=True))
        return [_filled(v, now, f"{path}.{i}", paths) for i, (v, now) in pairs]
    return built if _stands_for_one(outline) and path in paths else outline

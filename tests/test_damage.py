"""Damaged checkpoints: every damage is refused or said, or nothing is different; none gives a silently other history."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import asynchopper as ah
from asynchopper.testing.system import WithoutSync
from tests.damage import campaign, checkpoints, judge, known, other_version


async def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    with WithoutSync(tmp_path):
        counts = await campaign(tmp_path, 700, seed=20)
    total: dict[str, int] = {}
    for of in counts.values():
        for word, n in of.items():
            total[word] = total.get(word, 0) + n
    assert sum(total.values()) == 700
    assert total["refused"] > 500
    for damage in ("cut", "flip", "delete_lines", "swap_lines", "zero_page", "files_of_others", "shuffle_lines"):
        assert counts[damage].get("refused", 0) > 0, damage


@pytest.mark.parametrize("which", ["ended", "killed", "resumed", "saved"])
async def test_every_cut_of_every_log_is_noticed(tmp_path: Path, which: str) -> None:
    logs = await checkpoints(tmp_path)
    path = tmp_path / "cut.ckpt"
    data = logs[which]
    lines = [i + 1 for i, byte in enumerate(data) if byte == 10]
    with WithoutSync(tmp_path):
        for size in [*lines[:-1], *range(1, len(data), 331)]:
            verdict = await judge(path, data[:size], [], owner=size % 2 == 0)
            assert verdict.word == "refused", f"{which} cut to {size} of {len(data)} bytes: {verdict}"


async def test_versions_are_named(tmp_path: Path) -> None:
    logs = await checkpoints(tmp_path)
    path = tmp_path / "versions.ckpt"
    path.write_bytes(logs["ended"])
    expected = await known(path)
    words = {}
    for i in range(60):
        data = other_version(logs["ended"], random.Random(i))
        version = data.split(b'"format":"')[1].split(b'"')[0].decode()
        words[version] = await judge(path, data, expected, owner=False)
    for version in ("3.0", "10.3", "9" * 30):
        assert words[version].word == "refused"
        assert f"format {version}" in words[version].detail
        assert "upgrade asynchopper" in words[version].detail
    for version in ("1.1", "1.99", "2.7"):
        assert words[version].word == "harmless"
    for version in ("x", "", "-1.0"):
        assert words[version].word == "refused"


async def test_a_newer_minor_version_may_add_kinds_and_members(tmp_path: Path) -> None:
    from asynchopper.records import frame, unframe

    logs = await checkpoints(tmp_path)
    path = tmp_path / "newer.ckpt"
    path.write_bytes(logs["ended"])
    expected = await known(path)
    lines = logs["saved"].splitlines()
    out = [lines[0]]
    for line in lines[1:]:
        body = line[: unframe(line).size] + b"}"
        out.append(frame(body[:-1] + b',"of tomorrow":[1,{"a":null}]}', len(out))[:-1])
        out.append(frame(b'{"kind":"of tomorrow","id":-1,"state":7}', len(out))[:-1])
    assert expected
    path.write_bytes(logs["saved"])
    saved = await known(path)
    path.write_bytes(b"\n".join(out) + b"\n")
    assert await known(path) == saved


async def test_what_is_refused_can_be_started_anew_on_purpose(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    path.write_bytes(b"damaged beyond recognition\n")
    search = ah.Search(x=ah.float(0, 1))
    with pytest.raises(ah.CheckpointCorrupted):
        await search.run(lambda params: 1.0, steps=3, checkpoint_path=path, quiet=True)
    await search.run(lambda params: 1.0, steps=3, checkpoint_path=path, overwrite_checkpoint=True, quiet=True)
    loaded = ah.Search(x=ah.float(0, 1))
    await loaded.load(path)
    assert len(loaded.history) == 3

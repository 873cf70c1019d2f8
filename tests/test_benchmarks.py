"""That the benchmarks run, and write their page. What they measure is not judged here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks import growing, layers, parts
from benchmarks.bench import PAGE, row, table


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the page; benchmarks make their files beside it."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text("utf-8"), "utf-8")
    return copy


def between(page: Path, part: str) -> str:
    found = re.search(f"<!-- {part} begin -->(.*)<!-- {part} end -->", page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_has_a_place_for_every_part() -> None:
    for part in ("machine", *runner.PARTS):
        text = PAGE.read_text("utf-8")
        assert text.index(f"<!-- {part} begin -->") < text.index(f"<!-- {part} end -->")


def test_a_part_is_measured_and_written_and_the_rest_of_the_page_stays(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"random": growing.cases()["random"], "default": growing.cases()["default"]}
    monkeypatch.setattr(growing, "cases", lambda: few)
    monkeypatch.setattr(growing, "arrays", lambda blocks, quick: [])
    monkeypatch.setattr(runner, "PARTS", ("growing",))
    before = between(page, "sleepers")
    assert runner.main(["--quick", "--rounds", "1", "--write", "--page", str(page)]) == 0
    written = between(page, "growing")
    assert "| random: propose, and fold the asked, at 5,000 trials | at 100 |" in written
    assert "| default: candidates looked up for one that is new" in written
    assert "| file: append a result" in written
    assert "`--quick`" in written
    assert "Measured on: " in between(page, "machine")
    assert between(page, "sleepers") == before
    assert page.read_text("utf-8").startswith("# Benchmarks\n")


def test_one_part_alone_is_not_written_beside_those_of_another_machine(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "machine", lambda: "another machine")
    with pytest.raises(SystemExit):
        runner.main(["million", "--write", "--page", str(page)])
    assert "of another machine" in capsys.readouterr().err


def test_a_part_that_fails_is_said_and_the_others_are_written(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(name: str, rounds: int, quick: bool) -> str:
        if name == "first":
            raise OSError("no disk")
        return "the figures"

    monkeypatch.setattr(runner, "PARTS", ("first", "size"))
    monkeypatch.setattr(runner, "measured", measured)
    assert runner.main(["--write", "--page", str(page)]) == 1
    assert between(page, "size").strip() == "the figures"
    assert "failed: first" in capsys.readouterr().out


def test_without_a_server_redis_is_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.binaries", dict)
    assert "no redis-server" in runner.measured("redis", 1, True)


def test_the_layers_are_measured_on_what_a_search_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layers, "_TOLD", 100)
    text = layers.measured(quick=True)
    for name in ("propose", "fold the told", "the objective", "sync", "frame", "lines: number, batch, checksum"):
        assert f"| {name}" in text
    assert not list(tmp_path.iterdir())


def test_a_ledger_has_told_what_it_was_made_with() -> None:
    ledger = parts.ledger_of(None, 20, "reuse")
    assert (ledger.state.told, len(ledger.state.pending)) == (20, 0)
    assert ledger.state.trial_of is not None


def test_a_row_says_whether_its_aim_was_held() -> None:
    held = row("a", [10.0, 12.0, 11.0], "b", [10.0, 10.0, 10.0], "us", at_most=1.1)
    assert (held.held, held.median, held.aim) == (True, 1.1, "<= 1.1x")
    missed = row("a", [10.0], "b", [10.0, 7.0], "us", at_least=1.5, uvloop=[3.0])
    assert (missed.held, missed.ratios, missed.uvloop) == (False, (1.0,), "3 us")
    assert "| a | b | 11 us |  | 10 us | 1.1 (1 to 1.2) | <= 1.1x | yes |" in table([held, missed])
    assert "uvloop" not in table([held])

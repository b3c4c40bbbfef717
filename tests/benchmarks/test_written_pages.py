"""Every table in the documentation is what its command makes of the committed results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_page_is_that_of_the_results() -> None:
    command = [sys.executable, str(BENCHMARKS / "pages.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run python benchmarks/pages.py"


def test_a_study_that_is_not_there_is_refused() -> None:
    command = [sys.executable, str(BENCHMARKS / "pages.py"), "nonsense", "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "nonsense" in done.stderr and "mutants" in done.stderr


def test_a_page_without_its_marks_ends_the_program_and_a_stale_one_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from written_pages import written

    page = tmp_path / "page.md"
    page.write_text("before\n<b>\nold\n<e>\nafter\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["table.py", "--check"])
    assert written(page, "<b>", "<e>", "new\n") == 1 and "old" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["table.py"])
    assert written(page, "<b>", "<e>", "new\n") == 0
    assert page.read_text(encoding="utf-8") == "before\n<b>\nnew\n<e>\nafter\n"
    with pytest.raises(SystemExit, match="no <c>"):
        written(page, "<c>", "<e>", "new\n")

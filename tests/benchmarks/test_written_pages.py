"""Every table in the documentation is what its command makes of the committed results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("script", [path.name for path in sorted(BENCHMARKS.glob("*_table*.py"))])
def test_the_page_is_that_of_the_results(script: str) -> None:
    command = [sys.executable, str(BENCHMARKS / script), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, f"run python benchmarks/{script}"


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

"""The table of faults in the documents names the tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.fleet import ROOT

TABLE = ROOT / "docs" / "faults.md"


def test_the_table_names_every_test_and_no_other() -> None:
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    named = {match for row in rows for match in re.findall(r"`(test_\w+)` \|$", row)}
    sources = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    there = [name for path in sources for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)]
    assert sorted(named) == sorted(there)

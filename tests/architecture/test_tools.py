"""The tools of the house notice what they are for, and docs/ is as they would write it."""

from __future__ import annotations

from pathlib import Path

from tests.architecture.tracked import ROOT
from tools.check_sizes import check
from tools.generate_docs import PAGES, stale_pages


def test_generated_pages_are_not_stale() -> None:
    """`make docs` was run after the last change."""
    assert stale_pages(ROOT) == {}


def test_stale_pages_shows_what_differs(tmp_path: Path) -> None:
    """A missing page is stale, a written one is not, an edited one is again."""
    (name,) = list(PAGES)[:1]
    page = tmp_path / name
    missing = stale_pages(tmp_path)
    page.parent.mkdir(parents=True)
    page.write_text(PAGES[name](), encoding="utf-8")
    fresh = stale_pages(tmp_path)
    page.write_text(PAGES[name]().replace("Unique name", "Name"), encoding="utf-8")
    edited = stale_pages(tmp_path)

    assert name in missing
    assert name not in fresh
    assert "Unique name" in edited[name]


def test_check_sizes_names_large_modules_and_functions_but_no_data(tmp_path: Path) -> None:
    """At the limit is allowed, one line more is not; a table may be long."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "at_limit.py").write_text("import os\nos.getcwd()\n" + "\n" * 498)
    (folder / "long.py").write_text("import os\nos.getcwd()\n" + "\n" * 499)
    (folder / "table.py").write_text('"""Data."""\nROWS = [\n' + "    1,\n" * 600 + "]\n")
    (folder / "work.py").write_text(
        "async def fits():\n" + "    pass\n" * 69 + "class A:\n    def too_long(self):\n" + "        pass\n" * 70
    )
    found = check(tmp_path, ("app",))

    assert found == [
        "app/long.py: 501 lines, at most 500",
        "app/work.py:72: too_long has 71 lines, at most 70",
    ]

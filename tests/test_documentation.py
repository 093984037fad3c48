"""The pages that come with a release: found in the sources and in a package, listed with their titles."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwgraph import documentation
from lwgraph.errors import UsageError


def test_pages_of_the_sources() -> None:
    assert documentation.pages()["promises"] == "When a promise is kept"
    assert documentation.pages()["howto/ci"] == "In continuous integration"
    assert documentation.read("docs/run.md") == documentation.read("run") and documentation.read("howto/ci")
    assert not [name for name in documentation.pages() if name.startswith("reference")]


def test_pages_in_a_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentation, "_PACKAGE", tmp_path)
    (tmp_path / "docs/how").mkdir(parents=True)
    (tmp_path / "docs/how/to.md").write_text("# Title\n\nText\n", encoding="utf8")
    assert documentation.pages() == {"how/to": "Title"} and documentation.read("how/to").endswith("Text\n")


def test_a_page_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no page is named 'promise'; did you mean 'promises'"):
        documentation.read("promise")

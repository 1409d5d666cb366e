"""Result files that are whole or absent."""

from pathlib import Path
from typing import Any

from dmaxlit.files import staged_file, write_json

__all__ = ["write_results"]


def write_results(folder: Path, content: Any, table: str) -> None:
    """Write what a benchmark found: ``results.json`` and ``table.md``."""
    write_json(folder / "results.json", content)
    with staged_file(folder / "table.md") as staging:
        staging.write_text(table + "\n")

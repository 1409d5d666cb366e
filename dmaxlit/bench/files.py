"""Result files that are whole or absent."""

import json
from pathlib import Path
from typing import Any

__all__ = ["write_json", "write_results"]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    staging = path.with_suffix(".tmp")
    staging.write_text(json.dumps(content, indent=1) + "\n")
    staging.replace(path)


def write_results(folder: Path, content: Any, table: str) -> None:
    """Write what a benchmark found: ``results.json`` and ``table.md``."""
    write_json(folder / "results.json", content)
    (folder / "table.md").write_text(table + "\n")

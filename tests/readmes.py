"""The README files of the project, and their texts."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
READMES = [
    README,
    *(path for top in ("callbacks", "configs", "dmaxlit") for path in sorted((ROOT / top).rglob("README.md"))),
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in READMES}


def name_of(path):
    """Return a path as people write it."""
    return str(path.relative_to(ROOT))

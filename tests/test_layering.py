"""Dependencies run one way: registry, tokens <- noise, decoding, metrics <- module, engine <- callbacks, cli."""

import ast
from pathlib import Path

import pytest

import dmaxlit

PACKAGE = Path(dmaxlit.__file__).parent
STRATEGIES = [
    *sorted(PACKAGE.glob("noise/*.py")),
    *(p for p in sorted(PACKAGE.glob("decoding/*.py")) if p.stem in {"base", "hybrid", "threshold", "uniform", "spd"}),
    *sorted(PACKAGE.glob("metrics/*.py")),
]
ALLOWED_BELOW = {"errors", "registry", "schedules", "tokens", "randomness"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", STRATEGIES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_strategies_import_neither_backbone_nor_trainer_nor_each_other(path):
    ours = [name.split(".")[1:] for name in imported(path) if name.split(".")[0] == "dmaxlit"]
    assert not [name for name in imported(path) if name.split(".")[0] in {"lightning", "transformers"}]
    for parts in ours:
        assert parts[0] in ALLOWED_BELOW | {path.parent.name}, f"{path.name} imports {'.'.join(parts)}"
        if path.stem not in {"__init__", "base"} and parts[0] == path.parent.name and path.parent.name != "metrics":
            assert parts[1] in {"base", "hybrid"}, f"{path.name} imports its sibling {'.'.join(parts)}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_below_imports_callbacks_or_the_command_line(path):
    top = path.relative_to(PACKAGE).parts[0]
    if top in {"callbacks", "cli", "bench", "__main__.py"}:
        return
    assert not [name for name in imported(path) if name.startswith(("dmaxlit.callbacks", "dmaxlit.cli"))]

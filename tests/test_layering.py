"""Dependencies run one way: registry, tokens <- noise, decoding, metrics <- module, engine <- callbacks, cli."""

import ast
import inspect
from pathlib import Path

import pytest

import dmaxlit
from dmaxlit.decoding import DECODERS

PACKAGE = Path(dmaxlit.__file__).parent
# What strategies of one kind may share.
SHARED = ("base", "proposal", "committing", "rollout", "schedules")
# What other strategies may know of decoders: what they are, and how one is made.
OF_DECODERS = {"decoding.base", "decoding.factory"}
STRATEGIES = [
    *sorted(PACKAGE.glob("noise/*.py")),
    *(PACKAGE / "decoding" / f"{name}.py" for name in ("base", "proposal", "committing", "factory")),
    *(Path(inspect.getfile(DECODERS.get(name))) for name in DECODERS),
    *sorted(PACKAGE.glob("metrics/*.py")),
]
ALLOWED_BELOW = {"errors", "registry", "tokens", "randomness", "training"}


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
        if path.parent.name != "decoding" and ".".join(parts) in OF_DECODERS:
            continue
        assert parts[0] in ALLOWED_BELOW | {path.parent.name}, f"{path.name} imports {'.'.join(parts)}"
        if path.stem not in {"__init__", "base"} and parts[0] == path.parent.name and path.parent.name != "metrics":
            assert parts[1] in SHARED, f"{path.name} imports its sibling {'.'.join(parts)}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_below_imports_callbacks_or_the_command_line(path):
    top = path.relative_to(PACKAGE).parts[0]
    if top in {"callbacks", "cli", "bench", "__main__.py"}:
        return
    assert not [name for name in imported(path) if name.startswith(("dmaxlit.callbacks", "dmaxlit.cli"))]

"""Dependencies run one way, from the command line down to the strategies, which import almost nothing."""

import ast
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import dmaxlit
from dmaxlit.decoding import DECODERS

PACKAGE = Path(dmaxlit.__file__).parent
FILES = sorted({*PACKAGE.rglob("*.py"), *PACKAGE.glob("callbacks/*.py")})  # which may be a link, not followed by rglob
# Each layer may import those before it; members of a layer are independent.
LAYERS = [
    {"errors", "constructors", "version", "device_copies"},
    {"locks"},
    {"bars", "files", "registry", "option_types", "tokens", "randomness", "ranks", "weights_hash"},
    {"factory"},
    {"sandbox"},
    {"metrics", "decoding", "tasks"},
    {"noise", "data", "backbone", "viewer"},
    {"engine", "checkpoints"},
    {"training"},
    {"testing"},
    {"module"},
    {"loading"},
    {"evaluation", "server"},
    {"callbacks", "bench", "harness"},
    {"cli"},
    {"__main__"},
]
# Modules that strategies of one kind may share.
SHARED = (
    *("base", "block_groups", "mmd_reward", "objectives", "rollout", "schedules", "soft_targets", "trajectory"),
    *("committing", "factory", "joint", "proposal"),
)
# Modules of decoders that experimental noise strategies may import.
OF_DECODERS = {"decoding.base", "decoding.factory", "decoding.joint", "decoding.proposal", "decoding.spd"}
STRATEGIES = [
    *sorted(PACKAGE.glob("noise/*.py")),
    *sorted(PACKAGE.glob("noise/experimental/*.py")),
    *(PACKAGE / "decoding" / f"{name}.py" for name in ("base", "proposal", "committing", "factory")),
    *(Path(inspect.getfile(DECODERS.get(name))) for name in DECODERS),
    *sorted(PACKAGE.glob("metrics/*.py")),
]
# Libraries of the trainer with its command line, and of models.
TRAINER, MODELS = {"lightning", "jsonargparse"}, {"transformers", "tokenizers", "huggingface_hub"}
ALLOWED_BELOW = {
    "device_copies",
    "errors",
    "constructors",
    "registry",
    "option_types",
    "factory",
    "tokens",
    "randomness",
}


def imported(path):
    """Yield the names of the modules that a file imports, type-checking imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def module_name(path):
    parts = ("dmaxlit", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def import_graph():
    """Return the modules that each module imports; ``from package import module`` counts as the module."""
    modules = {module_name(path): path for path in FILES}
    graph = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = (f"{node.module}.{alias.name}" for alias in node.names)
                graph[name] |= {target if target in modules else node.module for target in targets} & set(modules)
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & set(modules)
    return graph


def kind_of(path):
    """Return the kind of the strategy in a file: noise, decoding or metrics."""
    return path.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("path", STRATEGIES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_strategies_import_neither_backbone_nor_trainer_nor_each_other(path):
    kind = kind_of(path)
    ours = [name.split(".")[1:] for name in imported(path) if name.split(".")[0] == "dmaxlit"]
    assert not [name for name in imported(path) if name.split(".")[0] in {"lightning", "transformers"}]
    for parts in ours:
        if path.parent.name == "experimental" and ".".join(parts) in OF_DECODERS:
            continue
        assert parts[0] in ALLOWED_BELOW | {kind}, f"{path.name} imports {'.'.join(parts)}"
        if path.stem not in {"__init__", "base"} and parts[0] == kind and kind != "metrics":
            assert parts[1] in SHARED, f"{path.name} imports its sibling {'.'.join(parts)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_below_imports_callbacks_or_the_command_line(path):
    top = path.relative_to(PACKAGE).parts[0]
    if top in {"callbacks", "cli", "bench", "__main__.py"}:
        return
    assert not [name for name in imported(path) if name.startswith(("dmaxlit.callbacks", "dmaxlit.cli"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("noise", {*TRAINER, *MODELS, "torchmetrics"}),
        ("decoding", {*TRAINER, *MODELS, "torchmetrics"}),
        ("metrics", TRAINER),  # torchmetrics imports transformers if it can
    ],
)
def test_importing_strategies_loads_neither_trainer_nor_models(package, absent):
    program = f"import sys, dmaxlit.{package}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & absent
    tops = {name.split(".")[1] for name in loaded if name.startswith("dmaxlit.")}
    assert tops <= ALLOWED_BELOW | {"version", package}


def test_dependencies_run_one_way():
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for name, targets in import_graph().items():
        for target in targets - {"dmaxlit"}:
            above, below = name.partition("dmaxlit.")[2].split(".")[0], target.split(".")[1]
            if above and above != below and level[above] <= level[below]:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_module_imports_itself_through_others():
    remaining = {name: set(targets) for name, targets in import_graph().items()}
    while leaves := [name for name, targets in remaining.items() if not targets & set(remaining)]:
        for name in leaves:
            del remaining[name]
    # What is left imports a circle, or is in one; drop the modules that no other one of them imports.
    while unused := set(remaining) - set().union(*remaining.values(), set()):
        for name in unused:
            del remaining[name]
    assert not remaining, f"circles among {sorted(remaining)}"


def test_the_layers_are_those_of_the_guide():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    listed = re.search(r"Dependencies run one way, at import time too:(.*?)\.\s+`tests/test_layering", text, re.DOTALL)
    assert [set(re.findall(r"`(\w+)`", layer)) for layer in listed[1].split("←")] == LAYERS


def test_every_file_has_a_layer():
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert tops == set().union(*LAYERS)

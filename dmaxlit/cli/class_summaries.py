"""What the docstrings of classes say, read from their files: importing them would take seconds."""

import ast
from collections.abc import Iterable
from pathlib import Path


def class_summaries(files: Iterable[Path], bases: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the first line of the docstring of each class in some files, by the classes' names, which are sorted.

    Args:
        files: Source files.
        bases: Last parts of the names of the classes that they may derive from. Default: any or none.
    """
    definitions = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    classes = [node for node in definitions if isinstance(node, ast.ClassDef)]
    return {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for node in sorted(classes, key=lambda node: node.name)
        if not bases or any(ast.unparse(base).endswith(bases) for base in node.bases)
    }

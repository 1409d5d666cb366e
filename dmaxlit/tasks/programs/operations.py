"""The operations that programs are made of, on lists of numbers or of words."""

from dmaxlit.tasks.programs.list_operations import LIST_OPERATIONS
from dmaxlit.tasks.programs.number_operations import NUMBER_OPERATIONS
from dmaxlit.tasks.programs.operation import Item, Operation
from dmaxlit.tasks.programs.word_operations import WORD_OPERATIONS

__all__ = ["ENDS", "OPERATIONS"]

_ALL: dict[Item, tuple[Operation, ...]] = {
    "number": (*NUMBER_OPERATIONS, *LIST_OPERATIONS),
    "word": (*WORD_OPERATIONS, *LIST_OPERATIONS),
}

#: What a step in the middle of a program can do, by the kind of items.
OPERATIONS: dict[Item, tuple[Operation, ...]] = {
    item: tuple(operation for operation in operations if operation.kind != "end") for item, operations in _ALL.items()
}
#: What a program can return, by the kind of items.
ENDS: dict[Item, tuple[Operation, ...]] = {
    item: tuple(operation for operation in operations if operation.kind == "end") for item, operations in _ALL.items()
}

"""The examples of a validation or test batch."""

from collections.abc import Iterator, Sequence

from dmaxlit.tasks import Example


class ExampleBatch:
    """Examples that Lightning passes on as they are.

    It looks for tensors in every sequence and dataclass of a batch, to move or convert them, and refuses examples,
    which are frozen. This is neither.

    Args:
        examples: The examples.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = tuple(examples)

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def __getitem__(self, index: int) -> Example:
        """Return an example."""
        return self._examples[index]

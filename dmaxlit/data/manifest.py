"""The origin of a corpus, next to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.version import __version__


@dataclass(frozen=True)
class Manifest:
    """The origin of a corpus; written next to it as ``<corpus>.manifest.json``.

    Args:
        settings: Everything the corpus depends on: hashes of the model's weights and chat template and its block
            length, or address and name of the model on a server; decoder and options, task and options or hash of the
            prompts, number of prompts, budget, filters, seed.
        prompts: Prompts answered, once for each of their samples.
        finished: Responses that ended in EOS or a stop text.
        correct: Finished responses that the checker accepts; None if they were not judged.
        kept: Rows of the corpus.
        tpf: Tokens per forward: tokens generated, EOS included, over the forwards they took part in. None if a server
            does not say how many forwards it took.
        seconds: Time spent generating.
        dropped: Responses that were dropped, by reason.
        held_out: Prompts that were left out, and are in a file of their own.
        version: Version of dmaxlit.
    """

    settings: dict[str, Any]
    prompts: int
    finished: int
    correct: int | None
    kept: int
    tpf: float | None
    seconds: float
    dropped: dict[str, int] = field(default_factory=dict)
    held_out: int = 0
    version: str = __version__

    @classmethod
    def read(cls, content: Mapping[str, Any], path: Path) -> "Manifest":
        """Return the manifest in a file.

        Raises:
            UserError: If it holds something else.
        """
        try:
            return cls(**content)
        except TypeError as error:
            raise UserError(f"{path}: expected the manifest of a corpus, got something else ({error})") from error

"""A response to be decoded, with the settings of its own."""

import json
from collections.abc import Hashable
from dataclasses import dataclass

from dmaxlit.engine.block_decoder import BlockDecoder
from dmaxlit.engine.request import Request
from dmaxlit.engine.sampler import Sampler
from dmaxlit.engine.settings import DecodeSettings
from dmaxlit.engine.stream import ResponseWriter
from dmaxlit.server.inbox import Inbox, Item


@dataclass(frozen=True)
class Sharing:
    """With whom a response can be decoded.

    Args:
        batch: Equal for responses that can share forwards of the model.
        lane: Equal for those of a batch that can also share the steps of a decoder.
    """

    batch: Hashable
    lane: Hashable

    @classmethod
    def of(cls, settings: DecodeSettings, engine: BlockDecoder) -> "Sharing":
        """Return with whom responses of some settings can be decoded.

        A window of another size, and further versions of a block, need forwards of another shape. A decoder's step
        draws tokens for all of its rows or for none, each with its own temperature and seed.

        Args:
            settings: The settings.
            engine: The engine that they make.
        """
        decoder = (settings.decoder, _text_of(settings.decoder_options))
        window = (settings.window, settings.admission, _text_of(settings.admission_options))
        batch = (decoder if engine.decoder.extra_blocks else None, settings.window)
        return cls(batch, (decoder, window, settings.temperature > 0))


@dataclass(frozen=True)
class Job:
    """A response to be decoded.

    Args:
        request: Its prompt, budgets and stop texts; the index is unique in the server.
        engine: Its settings.
        sampler: Its random numbers.
        sharing: With whom it can be decoded.
        writer: Turns its tokens into text.
        inbox: Where its drafts go.
        number: Its number there.
        reads_committed: Whether committed text is wanted before the end.
        reads_provisional: Whether the text of open blocks is wanted too.
        deadline: When it has to be complete, by ``time.monotonic``.
    """

    request: Request
    engine: BlockDecoder
    sampler: Sampler
    sharing: Sharing
    writer: ResponseWriter
    inbox: Inbox
    number: int
    reads_committed: bool
    reads_provisional: bool
    deadline: float

    @property
    def index(self) -> int:
        """The index that the engine knows it by."""
        return self.request.index

    def post(self, item: Item) -> None:
        """Leave a draft or a failure for the reader."""
        self.inbox.post(self.number, item)


def _text_of(options: dict[str, object]) -> str:
    return json.dumps(options, sort_keys=True, default=repr)

"""What a server grants its clients."""

import math
from dataclasses import dataclass

from dmaxlit.errors import UserError, check_at_least


@dataclass(frozen=True)
class Limits:
    """What a server grants its clients.

    Args:
        batch_size: Most responses that are decoded at the same time.
        max_waiting: Most responses that wait for that, from the moment their request has been read.
        max_responses: Most responses of one request: its prompts times ``n``. They also have to fit into the queue.
        max_tokens: Most tokens of a response that may be asked for; None for as many as the context holds.
        max_length: Most positions of a prompt and its response; None for the model's context. A longer budget is cut to
            it. The cache of a batch is of the longest request that it had, or up to a quarter longer within this limit.
        max_window: Most open blocks of a response. The cache of a batch with window w has ``batch_size * (w + 1/2)``
            rows, and there are at most four batches at the same time.
        max_extra_blocks: Most versions of a block beside the block itself that a forward may read for a response.
        max_mixed_tokens: Most tokens that the input of a position may mix, the mask token among them. The embeddings of
            all of them are in memory at once.
        max_body: Most bytes of a request.
        max_seconds: Most seconds from the arrival of a request to its last token.
        shutdown_seconds: Seconds in which the responses that are being decoded may end after the server was told to
            stop.

    Raises:
        UserError: For a limit below 1, max_waiting, max_extra_blocks or shutdown_seconds below 0, shutdown_seconds
            that are infinite, or max_seconds of 0 or less.
    """

    batch_size: int = 32
    max_waiting: int = 256
    max_responses: int = 128
    max_tokens: int | None = None
    max_length: int | None = None
    max_window: int = 4
    max_extra_blocks: int = 8
    max_mixed_tokens: int = 16
    max_body: int = 4 * 2**20
    max_seconds: float = 600.0
    shutdown_seconds: float = 30.0

    def __post_init__(self) -> None:
        may_be_zero = ("max_waiting", "max_extra_blocks", "shutdown_seconds")
        check_at_least(0, **{name: getattr(self, name) for name in may_be_zero})
        others = (*may_be_zero, "max_seconds")
        check_at_least(1, **{name: value for name, value in vars(self).items() if name not in others})
        if not self.max_seconds > 0:
            raise UserError(f"max_seconds: expected a number above 0, got {self.max_seconds:g}")
        if math.isinf(self.shutdown_seconds):
            raise UserError("shutdown_seconds: expected a finite number, got inf")

    @property
    def responses_per_request(self) -> int:
        """Most responses of one request, for which there is room in an empty queue."""
        return min(self.max_responses, self.batch_size + self.max_waiting)

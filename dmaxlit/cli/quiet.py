"""What is not shown because nobody can act on it."""

import logging
import warnings

__all__ = ["silence_known_warnings"]


def silence_known_warnings() -> None:
    """Silence advertisements and notices that say nothing of the user's run.

    Each with its reason; everything else is shown.
    """
    # Advertises other products of Lightning's makers at the start of every run.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    # Would stand above the one line of a refusal; the seed is in the configuration.
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    # Lightning's own use of a class that torch is about to rename.
    warnings.filterwarnings(
        "ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning
    )
    # Rows are encoded before training; worker processes would only cost time.
    warnings.filterwarnings("ignore", message=r".*does not have many workers which may be a bottleneck")
    # A run that is repeated in its folder is meant to be, and a checkpoint may be read from any folder.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=r"The dirpath has changed from")
    # The steps of our module leave decoding to callbacks, on purpose.
    warnings.filterwarnings("ignore", message=r"predict returned None if it was on purpose")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in str(record.msg)

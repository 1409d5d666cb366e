"""Warnings and notices that are not shown, because users cannot act on them."""

import logging
import warnings


def silence_known_warnings() -> None:
    """Silence advertisements and notices that do not concern the user's run, each with its reason."""
    # Advertises other products of Lightning's makers at the start of every run.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    # Would precede the one line of a refusal; the seed is in the configuration.
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    # Lightning uses a class that torch is about to rename.
    warnings.filterwarnings(
        "ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning
    )
    # Rows are encoded before training; worker processes would only cost time.
    warnings.filterwarnings("ignore", message=r".*does not have many workers which may be a bottleneck")
    # A run is meant to be repeated in its folder, and a checkpoint may be read from any folder.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=r"The dirpath has changed from")
    # `log_folders` gives the rows of the log another name before; where the log is not on a disk, they are lost.
    warnings.filterwarnings("ignore", message=r"Experiment logs directory (?!\w+://).* exists and is not empty")
    # A denoiser whose auxiliary model is trained is frozen, and stays in eval mode.
    warnings.filterwarnings("ignore", message=r"Found .* in eval mode at the start of training")
    # The steps of our module leave decoding to callbacks, on purpose.
    warnings.filterwarnings("ignore", message=r"predict returned None if it was on purpose")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in str(record.msg)

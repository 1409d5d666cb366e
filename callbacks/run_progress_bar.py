"""The progress bar of training in the terminal."""

from lightning.pytorch.callbacks import RichProgressBar

__all__ = ["RunProgressBar"]


class RunProgressBar(RichProgressBar):
    """Lightning's Rich bar without the last epoch "-2" that it shows when a run ends after a number of steps."""

    def _get_train_description(self, current_epoch: int) -> str:
        description = super()._get_train_description(current_epoch)
        return description if (self.trainer.max_epochs or 0) > 0 else description.replace("/-2", "  ", 1)

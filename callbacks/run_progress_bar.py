"""The bar that a run draws in the terminal."""

from lightning.pytorch.callbacks import RichProgressBar

__all__ = ["RunProgressBar"]


class RunProgressBar(RichProgressBar):
    """Lightning's bar; of a run that ends after a number of steps it names no last epoch, where Lightning's says -2."""

    def _get_train_description(self, current_epoch: int) -> str:
        told = super()._get_train_description(current_epoch)
        return told if (self.trainer.max_epochs or 0) > 0 else told.replace("/-2", "  ", 1)

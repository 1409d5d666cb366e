"""Streams a corpus on two processes, whole and interrupted, and writes what each rank saw: run by a test."""

import json
import sys

import lightning as L
import torch

from tests.data.streaming import numbers_of, streamed


class Recorder(L.LightningModule):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.layer.weight)
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, numbers_of(batch)))
        return self.layer(batch["index"][:, None].float()).mean()

    def on_train_batch_end(self, *_):
        if self.global_step == self.trainer.max_steps:
            self.trainer.save_checkpoint(f"{output}/{self.name}.ckpt")

    def on_train_end(self):
        ranks = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(ranks, (self.seen, self.layer.weight.item()))
        if self.global_rank == 0:
            with open(f"{output}/{self.name}.json", "w") as file:
                json.dump(ranks, file)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-4)


if __name__ == "__main__":
    corpus, output = sys.argv[1:]
    for name, steps, workers, resume in (("whole", 11, 0, None), ("first", 8, 0, None), ("rest", 11, 1, "first")):
        trainer = L.Trainer(
            max_steps=steps,
            devices=2,
            strategy="ddp_fork",
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=output,
        )
        data = streamed(corpus, batch_size=3, num_workers=workers)
        trainer.fit(Recorder(name), data, ckpt_path=resume and f"{output}/{resume}.ckpt", weights_only=True)

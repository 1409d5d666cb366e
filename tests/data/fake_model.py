"""A module that answers without a network; run as a script it distils and is killed on the way."""

import os
import signal
import sys
from types import SimpleNamespace

import lightning as L
import torch

from dmaxlit.backbone.eval_mode import evaluating
from dmaxlit.randomness import stable_seed
from dmaxlit.tasks import ChainTask


def chain_value(prompt):
    """Independent of the package: follow the operations with plain integers."""
    start, *operations, _ = prompt.split()
    value = int(start)
    for operation in operations:
        number = int(operation[1:])
        value = {"+": value + number, "-": value - number, "*": value * number}[operation[0]] % 10
    return value


class Backbone(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.auxiliary = None
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
        self.block_length, self.max_length = 32, 128
        torch.nn.init.constant_(self.model[0].weight, 0.25)
        torch.nn.init.constant_(self.model[0].bias, 0.5)


class FakeModule(L.LightningModule):
    """Of five prompts in a row it finishes four, three of them rightly."""

    def __init__(self, fail_at=None, random=False):
        super().__init__()
        self.backbone, self.tokenizer = Backbone(), ChainTask.tokenizer()
        self.fail_at, self.random, self.calls, self.modes, self.seen = fail_at, random, [], [], []

    def generate_batch(self, prompts, settings, first_index=0, progress=False, trace=None, on_response=None):
        """Answer pairs of prompts, the second of each pair first; interrupted after ``fail_at`` responses."""
        indices = range(first_index, first_index + len(prompts)) if isinstance(first_index, int) else first_index
        self.calls.append((list(prompts), settings, indices))
        with evaluating(self.modules()):  # as the engine does
            self.modes.append((self.training, self.backbone.model.training))
        responses = {}
        for index in (index ^ 1 for index in range(len(prompts) + len(prompts) % 2)):
            if len(responses) == self.fail_at:
                raise KeyboardInterrupt
            if index < len(prompts):
                responses[index] = self.answer(prompts[index], (settings["seed"], indices[index]))
                if on_response is not None:
                    on_response(index, responses[index])
            if callable(progress):
                progress(1)
        return [responses[index] for index in range(len(prompts))]

    def answer(self, prompt, key=None):
        prompt = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        kind = sum(map(ord, prompt)) % 5
        value = chain_value(prompt) + (kind == 1)
        lead = f"{stable_seed(*key)} " if self.random else ""
        return SimpleNamespace(
            text=f"{lead}so answer is #### {value % 10}", finished=kind != 0, num_tokens=6, num_forwards=2
        )

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return self.backbone.model[0](torch.ones(1, 2)).sum()

    def validation_step(self, batch, _):
        self.seen.append(("val", [example.prompt for example in batch["examples"]]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


if __name__ == "__main__":
    from dmaxlit.data import distill as distilling
    from dmaxlit.data import resumable_jsonl
    from dmaxlit.files import write_json

    records: list[object] = []

    def write_or_die(path, value):
        records.append(path)
        if len(records) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        write_json(path, value)

    vars(resumable_jsonl)["write_json"] = write_or_die
    settings = distilling.DistillSettings(num_prompts=40, batch_size=2)
    module = FakeModule()
    distilling.distill(module, ChainTask("easy"), sys.argv[1], settings, progress=False)

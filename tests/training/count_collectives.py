"""Counts the collectives of a training step on two ranks under FSDP2: run by test_communication_plan.py.

Arguments: the number of layers, a JSON object of cases, and the file to which rank zero writes a JSON object: for each
case a list of operation, elements of its first tensor, and their type.
"""

import json
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dmaxlit import DMaxModule
from dmaxlit.backbone.sharding import shard_denoiser
from dmaxlit.noise import NOISE
from dmaxlit.randomness import RowGenerator
from tests.conftest import make_batch, make_denoiser

NAMES = {"c10d::_allgather_base_": "all_gather", "c10d::_reduce_scatter_base_": "reduce_scatter"}


class Collectives(TorchDispatchMode):
    """Notes the collectives that are called."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.calls.append((NAMES.get(func.name(), func.name()), args[0].numel(), str(args[0].dtype)[6:]))
        return func(*args, **(kwargs or {}))


def collectives(mesh, layers, noise, recomputed, views, without, dtype):
    denoiser = make_denoiser(recompute=recomputed, num_hidden_layers=layers)
    shard_denoiser(denoiser, denoiser.model, mesh, None if dtype == "float32" else getattr(torch, dtype))
    options = {"steps": without} if without else {}
    module = DMaxModule(denoiser, NOISE.get(noise)(**options))
    clean = make_batch()
    optimizer = torch.optim.SGD(denoiser.parameters(), lr=0.1)
    for _ in range(2):
        with Collectives() as counted:
            losses = module.view_losses(clean, RowGenerator(0, range(len(clean.ids))))
            assert sum(loss.total.requires_grad for loss in losses) == views
            torch.stack([loss.total for loss in losses]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return counted.calls


def main(layers, cases, output):
    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    calls = {name: collectives(mesh, layers, *case) for name, case in cases.items()}
    if torch.distributed.get_rank() == 0:
        output.write_text(json.dumps(calls))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))

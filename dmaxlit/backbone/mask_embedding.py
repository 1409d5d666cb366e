"""The mask token's input embedding, where the checkpoint has none worth the name."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["init_mask_embedding", "is_vanishing"]

_SHARE = 0.05  # of the mean norm: below this a row was never trained, only decayed


@torch.no_grad()
def init_mask_embedding(module: nn.Embedding, rows: list[int], trained: int) -> None:
    """Give rows the direction of the mean embedding at the mean norm of the embeddings.

    The mean alone is short, since embeddings are nearly orthogonal, and rows that an autoregressive model never saw
    have decayed to nothing; with so short an input the first normalisation multiplies noise, and gradients, by its
    inverse (LLaDA2.0, arXiv 2512.15745, adds noise for that reason). The same on every rank and in every run.

    Args:
        module: The embedding; its table may be sharded, and then every rank must call.
        rows: Rows to write: the mask token's, and others that were added.
        trained: The first so many rows, but for ``rows``, are averaged; beyond them a table may be padded.
    """
    table = module.weight
    total, norm, count = _sums(table, rows, trained)
    row = total / total.norm().clamp(min=1e-12) * (norm / count)
    chosen = torch.zeros(table.shape[0], dtype=torch.bool)
    chosen[rows] = True
    local = _local(table.detach())
    local[_local_rows(chosen, table)] = row.to(local.dtype)


@torch.no_grad()
def is_vanishing(module: nn.Embedding, row: int, trained: int) -> bool:
    """Whether a row is shorter than a twentieth of the mean norm of the others."""
    table = module.weight
    _, norm, count = _sums(table, [row], trained)
    chosen = torch.zeros(table.shape[0], dtype=torch.bool)
    chosen[row] = True
    own = _reduced(_local(table.detach())[_local_rows(chosen, table)].double().norm(dim=-1).sum(), table)
    return bool(own < _SHARE * norm / count)


def _sums(table: Tensor, without: list[int], trained: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum, sum of norms and number of the trained rows but some, over all ranks."""
    others = torch.arange(table.shape[0]) < trained
    others[without] = False
    own = _local(table.detach())[_local_rows(others, table)].double()
    sums = (own.sum(0), own.norm(dim=-1).sum(), torch.tensor(float(own.shape[0]), device=own.device))
    total, norm, count = (_reduced(each, table) for each in sums)
    return total, norm, count


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local_rows(rows: Tensor, table: Tensor) -> Tensor:
    """The part of ``[vocab]`` bools that belongs to this rank's rows of the table."""
    rows = rows.to(table.device)
    if not isinstance(table, DTensor):
        return rows
    return distribute_tensor(rows, table.device_mesh, table.placements, src_data_rank=None).to_local()


def _reduced(value: Tensor, table: Tensor) -> Tensor:
    if isinstance(table, DTensor):
        torch.distributed.all_reduce(value, group=table.device_mesh.get_group())
    return value

"""The mask token's input embedding, for checkpoints that have none or never trained it."""

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from dmaxlit.backbone.sharding import local_tensor

_VANISHING_NORM = 0.05  # of the mean norm: a shorter embedding was never trained, only decayed


def fit_embeddings(model: PreTrainedModel, num_tokens: int, mask_id: int, is_new: bool, is_foreign: bool) -> None:
    """Add embeddings for new tokens, and initialise the mask token's where the checkpoint has none.

    Args:
        model: The model; if it is sharded, every rank must call.
        num_tokens: Ids of the tokenizer; the table grows to so many rows if it has fewer.
        mask_id: Id of the mask token.
        is_new: Whether the mask token was added to the tokenizer.
        is_foreign: Whether dmaxlit did not write the checkpoint: its mask embedding is then replaced if it is nearly
            zero.
    """
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding), "refused otherwise"
    old = table.weight.shape[0]
    if num_tokens > old:
        add_token_rows(model, num_tokens)
        table = model.get_input_embeddings()
        assert isinstance(table, nn.Embedding), "resizing keeps the class"
    trained = min(old, num_tokens)
    rows = sorted({*range(old, num_tokens), *([mask_id] if is_new else [])})
    if not rows and is_foreign and is_vanishing(table, mask_id, trained):
        rank_zero_info("backbone: the mask embedding is nearly zero; training starts from the mean of the others")
        rows = [mask_id]
    if rows:
        init_mask_embedding(table, rows, trained)


def embedding_table(model: PreTrainedModel) -> Tensor:
    """Return the ``[vocab, width]`` input embedding table of a model."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor), "the weight of an embedding is a tensor"
    return weight


def add_token_rows(model: PreTrainedModel, num_tokens: int) -> None:
    """Extend the embedding table to at least ``num_tokens`` rows; works on the meta device too."""
    if num_tokens > embedding_table(model).shape[0]:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)


@torch.no_grad()
def init_mask_embedding(module: nn.Embedding, rows: list[int], trained: int) -> None:
    """Set rows to the direction of the mean embedding, at the mean norm of the embeddings.

    The mean alone is short, since embeddings are nearly orthogonal, and rows that an autoregressive model never saw
    have decayed to nothing. With such a short input the first normalisation multiplies noise, and gradients, by its
    inverse (LLaDA2.0, arXiv 2512.15745, adds noise for that reason). The result is the same on every rank and in every
    run.

    Args:
        module: The embedding; if its table is sharded, every rank must call.
        rows: Rows to write: the mask token's, and those of other added tokens.
        trained: Number of leading rows that are averaged, except ``rows``; the table may be padded beyond them.
    """
    table = module.weight
    total, norm, count = _sums(table, rows, trained)
    row = total / total.norm().clamp(min=1e-12) * (norm / count)
    is_written = torch.zeros(table.shape[0], dtype=torch.bool)
    is_written[rows] = True
    local = local_tensor(table.detach())
    local[_local_rows(is_written, table)] = row.to(local.dtype)


@torch.no_grad()
def is_vanishing(module: nn.Embedding, row: int, trained: int) -> bool:
    """Return whether a row is shorter than a twentieth of the mean norm of the others.

    Args:
        module: The embedding; if its table is sharded, every rank must call.
        row: The row.
        trained: Number of leading rows that are averaged, except ``row``.
    """
    table = module.weight
    _, norm, count = _sums(table, [row], trained)
    is_row = torch.zeros(table.shape[0], dtype=torch.bool)
    is_row[row] = True
    row_norm = local_tensor(table.detach())[_local_rows(is_row, table)].double().norm(dim=-1).sum()
    return bool(_all_reduce(row_norm, table) < _VANISHING_NORM * norm / count)


def _sums(table: Tensor, excluded: list[int], trained: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum, sum of norms and number of the trained rows without the excluded ones, over all ranks."""
    is_counted = torch.arange(table.shape[0]) < trained
    is_counted[excluded] = False
    rows = local_tensor(table.detach())[_local_rows(is_counted, table)].double()
    sums = (rows.sum(0), rows.norm(dim=-1).sum(), torch.tensor(float(rows.shape[0]), device=rows.device))
    total, norm, count = (_all_reduce(value, table) for value in sums)
    return total, norm, count


def _local_rows(rows: Tensor, table: Tensor) -> Tensor:
    """Return the slice of ``[vocab]`` bools for the rows of the table that this rank holds."""
    rows = rows.to(table.device)
    if not isinstance(table, DTensor):
        return rows
    return distribute_tensor(rows, table.device_mesh, table.placements, src_data_rank=None).to_local()


def _all_reduce(value: Tensor, table: Tensor) -> Tensor:
    if isinstance(table, DTensor):
        torch.distributed.all_reduce(value, group=table.device_mesh.get_group())
    return value

"""The denoiser of a checkpoint, in memory."""

from dataclasses import replace
from pathlib import Path

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.backbone.formats.model_folder import write_folder
from dmaxlit.backbone.source import BackboneSource
from dmaxlit.checkpoints.lightning_file import stored_model
from dmaxlit.checkpoints.scratch import scratch_folder


def backbone_of_checkpoint(
    path: str | Path,
    attn_implementation: str = "sdpa",
    dtype: str = "float32",
    probe: bool = True,
    block_length: int | None = None,
) -> Denoiser:
    """Return the denoiser of a checkpoint as of an export of it, adapters merged; its weights are not written anywhere.

    Args:
        path: A ``.ckpt`` file, or sharded checkpoint, written by ``fit``.
        attn_implementation: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        probe: Check that the model obeys block masks and positions.
        block_length: Tokens per block. Default: as stored.

    Raises:
        UserError: If the checkpoint is missing, damaged or none of ours.
    """
    stored = stored_model(path)
    with scratch_folder(f"the settings in {str(path)!r}") as folder:
        write_folder(folder / "model", stored.model, stored.tokenizer, stored.metadata, weights={})
        source = BackboneSource.resolve(
            str(folder / "model"), block_length=block_length, attn_implementation=attn_implementation, dtype=dtype
        )
        denoiser = Denoiser.from_source(replace(source, weights=stored.model.state_dict()), probe)
    denoiser.auxiliary = None if stored.auxiliary is None else stored.auxiliary.to(denoiser.model.dtype)
    return denoiser

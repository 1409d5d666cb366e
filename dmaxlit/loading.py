"""Loading a trained model for use."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from dmaxlit.backbone import Denoiser
from dmaxlit.backbone.formats.model_folder import write_folder
from dmaxlit.backbone.source import BackboneSource
from dmaxlit.checkpoints.lightning_file import stored_model
from dmaxlit.checkpoints.scratch import scratch_folder
from dmaxlit.module import DMaxModule

__all__ = ["load"]


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> DMaxModule:
    """Load a trained model in eval mode, ready to ``generate``.

    Args:
        path: A folder written by ``export`` (or any transformers checkpoint), ``builtin:NAME`` for a shipped model, a
            hub id, or a ``.ckpt`` file written by ``fit``.
        device: Device of the model.
        attn_implementation: ``sdpa``, ``eager`` or ``flex_attention``.
        dtype: Type of the weights. In bfloat16 a model needs half the memory; responses may differ from float32's.

    Raises:
        UserError: If there is no such model, or it is damaged.
    """
    if Path(path).suffix == ".ckpt":
        backbone = _backbone_of_checkpoint(path, attn_implementation, dtype)
    else:
        backbone = Denoiser(pretrained=str(path), attn_implementation=attn_implementation, dtype=dtype)  # type: ignore[arg-type]
    module = DMaxModule(backbone)
    return module.eval().to(device)


def _backbone_of_checkpoint(path: str | Path, attention: str, dtype: str) -> Denoiser:
    """Make a denoiser of a checkpoint as of an export of it, whose small files are written, but not its weights."""
    stored = stored_model(path)
    with scratch_folder(f"the settings in {str(path)!r}") as folder:
        write_folder(folder / "model", stored.model, stored.tokenizer, stored.metadata, weights={})
        source = BackboneSource.resolve(str(folder / "model"), attn_implementation=attention, dtype=dtype)
        return Denoiser.from_source(replace(source, weights=stored.model.state_dict()))

"""``dmaxlit export``."""

from pathlib import Path
from typing import Any

from dmaxlit.cli.arguments import Dtype, call, load_model, make_parser
from dmaxlit.cli.renames import current_flags
from dmaxlit.errors import DMaxWarning, UserError, printable

_RENAMED = {"--checkpoint": "--model"}


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    call(make_parser(command, export), export, current_flags(args, _RENAMED))


def export(
    model: str,
    output: str,
    dtype: Dtype = "float32",
    decoder: str | None = None,
    decoder_options: dict[str, Any] | None = None,
    results: str | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
    probe: bool = True,
    block_length: int | None = None,
) -> None:
    """Write a trained model as a folder that dmaxlit.load and transformers both read.

    The folder holds safetensors, the config, the tokenizer, a model card, and dmaxlit.json with the block length, the
    task, and the decoder that generate, serve and chat use by default. A card that you wrote or edited in an earlier
    export stays, and so do files that are not an export's.

    Args:
        model: A .ckpt file that fit wrote; also a folder, hub id or builtin:NAME, which is copied.
        output: Folder to write; an earlier export there is replaced.
        dtype: Type to write the weights in. The bias by which experts are chosen stays float32.
        decoder: Registered name of the decoder that generate, serve and chat are to use by default. Default: the one
            the model was judged with. For threshold, one_token and edit, the settings of SGLang and diffusers are
            written too (sglang.yaml, diffusers.json).
        decoder_options: Options of the decoder, also as --decoder.tau_dec 0.3.
        results: Figures for the card: results.json of a run, which are the trained model's, record.json of an
            evaluation of this model, or the folder with it.
        push_to_hub: Upload the folder, hidden files excepted, to this repository of the hub, USER/NAME, which is
            created if necessary. The token is that of `hf auth login`, or the environment's HF_TOKEN. What only an
            earlier export there had is deleted; a card that was edited there stays.
        private: Create the repository as a private one; a public one is refused.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
        block_length: Tokens per block, of a published checkpoint that does not say it. Default: the model's.
    """
    from lightning.pytorch.utilities import rank_zero_warn

    from dmaxlit.backbone.formats.hub_upload import check_repository, upload
    from dmaxlit.backbone.formats.model_folder import check_output_folder
    from dmaxlit.evaluation.card_figures import read_figures
    from dmaxlit.files import expanded

    if decoder is None and decoder_options:
        raise UserError("decoder_options: expected --decoder with them, got none")
    if private and push_to_hub is None:
        raise UserError("private: expected --push_to_hub with it, got none")
    if push_to_hub is not None:
        check_repository(push_to_hub)
    output = expanded(output)
    check_output_folder(Path(output))
    found = None if results is None else read_figures(Path(expanded(results)))
    module = load_model(model, "cpu", dtype, probe, block_length=block_length)
    if decoder is not None:
        module.set_decoding(decoder, **(decoder_options or {}))
    if found is not None:
        found.check_model(module)
        module.figures = found.figures
    elif module.figures and dtype not in ("float32", _stored_dtype(model)):  # float32 rounds nothing
        rank_zero_warn(
            f"dtype: {model!r} has figures of its own weights, the export has them rounded to {dtype}: whether the "
            "figures hold for these is not checked",
            category=DMaxWarning,
        )
    module.export(output)
    print(printable(output))
    if push_to_hub is not None:
        print(printable(upload(Path(output), push_to_hub, private)))


def _stored_dtype(model: str) -> str | None:
    """Return the type of a model's stored weights, by its config; None for a checkpoint of a run."""
    from dmaxlit.backbone.formats.hub import fetch
    from dmaxlit.backbone.formats.weight_files import read_config

    if Path(model).suffix == ".ckpt":
        return None
    config = read_config(fetch(model, weights=False))
    dtype: str | None = config.get("dtype", config.get("torch_dtype"))
    return dtype

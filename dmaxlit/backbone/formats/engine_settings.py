"""The default decoder of a model folder in the settings of other engines, next to the model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dmaxlit.decoding import make_decoder, to_diffusers, to_sglang
from dmaxlit.errors import UserError

SGLANG_FILE, DIFFUSERS_FILE = "sglang.yaml", "diffusers.json"


def write_engine_settings(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write the settings of SGLang and diffusers for the default decoder, those of them that have it.

    ``sglang.yaml`` is for ``--dllm-algorithm-config``; a comment in it names the algorithm. ``diffusers.json`` holds
    the arguments of ``LLaDA2Pipeline``, whose ``gen_length`` has to be ``num_inference_steps`` or more.

    Args:
        folder: The model folder.
        metadata: Content of its ``dmaxlit.json``.
    """
    decoding = metadata.get("decoding")
    if not decoding:
        return
    try:
        decoder = make_decoder(decoding["decoder"], **decoding.get("options", {}))
        sglang = to_sglang(decoder)
        config = yaml.safe_dump(sglang["config"], sort_keys=False)
        (folder / SGLANG_FILE).write_text(f"# --dllm-algorithm {sglang['algorithm']}\n{config}", encoding="utf-8")
        settings = to_diffusers(decoder, metadata["block_length"])
        (folder / DIFFUSERS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    except UserError:  # a decoder that the engine does not have, or one of a later version
        return

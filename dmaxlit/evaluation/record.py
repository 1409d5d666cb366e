"""The record of an evaluation: everything its figures depend on, and how they were counted."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dmaxlit.backbone.formats.hub import hub_commit
from dmaxlit.backbone.transformers_internals import attention_of
from dmaxlit.errors import UserError
from dmaxlit.evaluation.cell_result import CellResult
from dmaxlit.evaluation.command_line import running_command
from dmaxlit.evaluation.evaluate import WARM_UP_FORWARDS
from dmaxlit.evaluation.report import aup_of, best_accuracy, by_task
from dmaxlit.evaluation.run_folder import RECORD
from dmaxlit.evaluation.software import software
from dmaxlit.files import read_json
from dmaxlit.weights_hash import weights_hash

FORMAT = "dmaxlit-evaluation-1"

#: The rules of counting tokens per forward, as ``dmaxlit.metrics.TokensPerForward`` has them.
TPF_RULES = {
    "without_eos": "micro-average: tokens before EOS of all answers / forwards of all answers; neither EOS nor padding "
    "nor the prompt counts",
    "dmaxlit": "micro-average: tokens up to and including EOS of all answers / forwards of all answers; the rule of "
    "curves and AUP",
    "published": "macro-average as in DMax's published evaluation: mean over answers of tokens before EOS / (forwards "
    "+ 1 for the prompt, or + 0 for autoregressive rows, whose forwards hold the prompt's); DMax also counts what is "
    "not EOS behind the first EOS of the final block",
}
_FORWARDS = (
    "forwards of the model in which the answer's row took part; prefill and cache commits are parts of these; forwards "
    "of an assistant do not count, their time does"
)
_BOUNDARY = (
    "wall clock around generate_batch: tokenisation, prefill, decoding and detokenisation, the device synchronised at "
    "both ends; grading and files are left out; tokens up to and including EOS, per device; what an interruption made "
    "necessary again is included"
)


def make_record(
    settings: dict[str, Any],
    model: dict[str, Any],
    baselines: Sequence[dict[str, Any]],
    facts: dict[str, dict[str, Any]],
    results: Sequence[CellResult],
    device: dict[str, Any],
    environments: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the record of an evaluation, as JSON values.

    Args:
        settings: The settings that its answers depend on.
        model: What is known of the model; see :func:`describe_model`.
        baselines: What is known of each autoregressive model.
        facts: What is known of each task besides its settings, by its label.
        results: The figures of all cells.
        device: What it ran on.
        environments: Those that answered: several if the evaluation was interrupted, and resumed by another one.
    """
    groups = by_task(results)
    return {
        "format": FORMAT,
        "command": running_command(),
        "software": software(),
        "model": model,
        "baselines": list(baselines),
        "device": device,
        "environments": list(environments),
        "tasks": {
            label: {**own, **facts[label], "y_max": best_accuracy(groups[label]), "aup": aup_of(groups[label])}
            for label, own in settings["tasks"].items()
        },
        "counting": {
            "tpf_rules": TPF_RULES,
            "forwards": _FORWARDS,
            "intervals": "95%, Wilson's score over prompts",
            "aup": "d3LLM (arXiv 2601.07568), alpha 3, over the TPF of rule dmaxlit; y_max is the task's best accuracy",
        },
        "timing": {
            "boundary": _BOUNDARY,
            "warm_up": f"{WARM_UP_FORWARDS} forwards of a batch with the longest prompt of each process, not timed",
            "tokens_per_second": "measured, not derived from forwards",
        },
        "settings": settings,
        "results": [cell.to_dict() for cell in results],
    }


def read_record(folder: Path, argument: str) -> dict[str, Any]:
    """Return the record of a complete evaluation.

    Args:
        folder: Its folder.
        argument: The user's name for it, for messages.

    Raises:
        UserError: If there is none, or it is of another format.
    """
    path = folder / RECORD
    if not path.is_file():
        raise UserError(
            f"{argument}: expected the folder of a complete evaluation, got {str(folder)!r}, without {RECORD}"
        )
    record: dict[str, Any] = read_json(path)
    if record.get("format") != FORMAT:
        raise UserError(
            f"{argument}: expected a record of format {FORMAT}, got {record.get('format')!r} in {str(path)!r}"
        )
    return record


def describe_model(module: Any, source: str) -> dict[str, Any]:
    """Return what a record says of a model.

    Args:
        module: The :class:`~dmaxlit.module.DMaxModule`.
        source: What the user named: folder, hub id, ``builtin:NAME`` or ``.ckpt`` file.
    """
    backbone = module.backbone
    parameters = next(backbone.model.parameters())
    return {
        "source": source,
        "revision": hub_commit(source),
        "base_model": backbone.base_model,
        "weights_sha256": weights_hash(module),
        "step": module.weights_step(),
        "num_parameters": sum(p.numel() for p in backbone.model.parameters()),
        "dtype": str(parameters.dtype).removeprefix("torch."),
        "block_length": backbone.block_length,
        "context_length": backbone.max_length,
        "attention": attention_of(backbone.model),
    }


def describe_device(device: torch.device, processes: int, num_nodes: int) -> dict[str, Any]:
    """Return what a record says of the machine."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "type": device.type,
        "name": name,
        "processes": processes,
        "nodes": num_nodes,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }

"""The figures of a starting model that another run has decoded with already."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmaxlit.data.identity import plain_values, template_hash
from dmaxlit.decoding import DECODERS
from dmaxlit.decoding.admission import ADMISSIONS
from dmaxlit.errors import UserError
from dmaxlit.evaluation.evaluate import DecoderSpec
from dmaxlit.evaluation.limits import Limits
from dmaxlit.evaluation.record import describe_device
from dmaxlit.evaluation.results import DecodeResult
from dmaxlit.evaluation.run_figures import RESULTS
from dmaxlit.files import read_json
from dmaxlit.tasks import Task
from dmaxlit.version import __version__
from dmaxlit.weights_hash import weights_hash


def decoding_conditions(
    module: Any, task: Any, specs: Sequence[DecoderSpec], prompts: str, answers: str, limits: Limits, batch: int
) -> dict[str, Any]:
    """Return what figures depend on besides the weights and the machine, as JSON values.

    Args:
        module: The model.
        task: The task that judges the answers; anything else if the data module has none.
        specs: The decoders.
        prompts: Hash of the prompts.
        answers: Hash of their reference answers.
        limits: What ends an answer.
        batch: Prompts decoded together.
    """
    decoders = {
        spec.title: [spec.name, spec.options, spec.window, spec.admission, spec.admission_options] for spec in specs
    }
    conditions = {
        "block_length": module.backbone.block_length,
        "chat_template": template_hash(module.tokenizer),
        "task": [type(task).__name__, task.options()] if isinstance(task, Task) else None,
        "prompts": prompts,
        "answers": answers,
        **vars(limits),
        "batch_size": batch,
        "decoders": decoders,
    }
    return plain_values(conditions)


def baseline_identity(module: Any, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the figures of the starting model depend on, its speed included, as JSON values.

    Args:
        module: The model.
        conditions: What they depend on besides it; see :func:`decoding_conditions`.
    """
    identity = {
        "weights": weights_hash(module),
        "dtype": str(module.backbone.embedding.dtype),
        "version": __version__,
        "device": describe_device(module.backbone.device, 1, 1),
        **conditions,
    }
    if not conditions["stop"]:  # absent from the identities of runs before there were any
        del identity["stop"]
    return plain_values(identity)


def uses_own_code(task: Any, specs: Sequence[DecoderSpec]) -> bool:
    """Return whether figures depend on code of the user, which may have been edited since another run got them.

    Args:
        task: The task that judges the answers; anything else if the data module has none.
        specs: The decoders.
    """
    policies = [ADMISSIONS.get(spec.admission) for spec in specs if spec.window > 1]
    classes = [type(task), *(DECODERS.get(spec.name) for spec in specs), *policies]
    return not all(cls.__module__.startswith("dmaxlit.") for cls in classes)


def known_baseline(folder: Path, identity: Mapping[str, Any]) -> tuple[Path, dict[str, DecodeResult]] | None:
    """Return where the figures with this identity are, in the folder of this run or one next to it, and the figures.

    Args:
        folder: The folder of this run.
        identity: What the figures depend on.
    """
    for path in (folder / RESULTS, *sorted(folder.absolute().parent.glob(f"*/{RESULTS}"))):
        try:
            content = read_json(path)
            if content.get("baseline") == identity:
                rows = [row for row in content["rows"] if row["model"] == "base"]
                return path, {row["label"]: DecodeResult.from_dict(row) for row in rows}
        except (UserError, KeyError, TypeError, AttributeError):
            continue  # a file of something else
    return None

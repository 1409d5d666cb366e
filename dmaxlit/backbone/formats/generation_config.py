"""``generation_config.json``: the tokens that end a response, and the settings of autoregressive generation."""

import json
from pathlib import Path

from transformers import GenerationConfig

from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import read_json

GENERATION_CONFIG_FILE = "generation_config.json"
# transformers has no setting that forbids generation. Of those that it checks when generate() is called, and not when
# the model is loaded, this one is shown in full in the error, and is of no use to a model that is decoded by dmaxlit.
_NOTE_SETTING = "bad_words_ids"
_NOTE = (
    "(on purpose) a note: this is a diffusion language model, of which generate() of transformers would make nonsense. "
    "Decode it with dmaxlit.load(FOLDER).generate(PROMPT); see README.md of the model"
)


def read_generation_config(folder: Path) -> GenerationConfig | None:
    """Read the generation settings of a model folder; None if it has none.

    transformers does so only for models that it loads from a folder, not for those that are built from their config.

    Raises:
        UserError: If the file cannot be read, or is no JSON object.
    """
    path = folder / GENERATION_CONFIG_FILE
    if not path.is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except Exception as error:  # a damaged file can make any line of transformers fail
        reason = reason_of(error)
        raise UserError(f"pretrained: expected generation settings in {str(path)!r}, got others ({reason})") from error


def refuse_generation(folder: Path) -> None:
    """Make ``generate`` of transformers refuse the model in a folder, with a note of how it is decoded.

    The other settings, such as the tokens that end a response, stay. The model can still be loaded.

    Args:
        folder: Folder with or without generation settings.
    """
    path = folder / GENERATION_CONFIG_FILE
    settings = read_json(path) if path.is_file() else {}
    path.write_text(json.dumps({**settings, _NOTE_SETTING: _NOTE}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def allow_generation(folder: Path) -> None:
    """Undo :func:`refuse_generation`: for an autoregressive model, or a form whose own code decodes it."""
    path = folder / GENERATION_CONFIG_FILE
    settings = read_json(path) if path.is_file() else {}
    if not isinstance(settings.get(_NOTE_SETTING), str):
        return
    del settings[_NOTE_SETTING]
    if settings:
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        path.unlink()

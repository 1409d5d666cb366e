"""``generation_config.json``: the tokens that end a response, and the settings of autoregressive generation."""

from pathlib import Path

from transformers import GenerationConfig

from dmaxlit.errors import UserError, reason_of

GENERATION_CONFIG_FILE = "generation_config.json"


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

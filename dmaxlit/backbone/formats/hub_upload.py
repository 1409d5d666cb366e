"""Model folders to the hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from dmaxlit.backbone.formats.engine_settings import DIFFUSERS_FILE, SGLANG_FILE
from dmaxlit.backbone.formats.generation_config import GENERATION_CONFIG_FILE
from dmaxlit.backbone.formats.hub import HUB_ID
from dmaxlit.backbone.formats.metadata import AUXILIARY_FOLDER
from dmaxlit.backbone.formats.weight_files import INDEX_FILE
from dmaxlit.errors import UserError, reason_of

_MOST_CHARACTERS = 96  # of a name on the hub
# What an export has only sometimes. Of an earlier one, it would be read with the new model's other files.
_OPTIONAL = (
    "model*.safetensors",
    INDEX_FILE,
    f"{AUXILIARY_FOLDER}/*",
    SGLANG_FILE,
    DIFFUSERS_FILE,
    GENERATION_CONFIG_FILE,
    "chat_template.jinja",
    "additional_chat_templates/*",
)


def check_repository(name: str) -> None:
    """Refuse what cannot name a repository, before anything else is done.

    Raises:
        UserError: If it is not of the form USER/NAME.
    """
    is_plain = HUB_ID.fullmatch(name) and not re.search(r"--|\.\.|/[-.]|[-.]/|^[-.]|[-.]$", name)
    if not is_plain or len(name) > _MOST_CHARACTERS:
        raise UserError(f"push_to_hub: expected USER/NAME, got {name!r:.120}")


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a model folder in one commit, and return the address of the repository.

    Weights, auxiliary model, chat templates and settings of engines that only an earlier export had are deleted there;
    other files, such as pictures of the card, stay.

    Args:
        folder: The folder that ``export`` wrote.
        repository: USER/NAME; it is created if it does not exist.
        private: Create it as a private one. An existing one stays as it is.

    Raises:
        UserError: If there is no valid token, it may not write there, or the hub cannot be reached.
    """
    check_repository(repository)
    api = HfApi(library_name="dmaxlit")
    try:
        api.whoami()  # a missing or wrong token is refused before the upload
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Model exported by dmaxlit",
            ignore_patterns=[".*"],
            delete_patterns=list(_OPTIONAL),
        )
    except LocalTokenNotFoundError as error:
        raise UserError("push_to_hub: expected a token of the hub (`hf auth login`, or HF_TOKEN), got none") from error
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else None
        if code in (401, 403):
            raise UserError(
                f"push_to_hub: expected a token that may write to {repository!r}, which the hub refuses "
                f"({reason_of(error)})"
            ) from error
        raise UserError(f"push_to_hub: the hub refuses {repository!r} ({reason_of(error)})") from error
    except Exception as error:  # of whichever HTTP library the client uses
        raise UserError(f"push_to_hub: cannot reach the hub ({reason_of(error, with_type=True)})") from error
    return str(address)

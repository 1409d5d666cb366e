"""Model folders to the hub."""

import contextlib
import json
import re
import warnings
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RemoteEntryNotFoundError

from dmaxlit.backbone.formats.hub import HUB_ID
from dmaxlit.backbone.formats.metadata import METADATA_FILE, read_metadata
from dmaxlit.backbone.formats.model_card import CARD_FILE, card_hash, edited_card
from dmaxlit.backbone.formats.model_folder import OPTIONAL_FILES, OPTIONAL_FOLDERS
from dmaxlit.errors import DMaxWarning, UserError, reason_of
from dmaxlit.files import write_text

_MOST_CHARACTERS = 96  # of a name on the hub
_UPLOADED = "uploaded_card"  # in dmaxlit.json


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

    Files of the user's in it go there too, but no hidden ones. Weights, auxiliary model, tokenizer, chat templates and
    settings of engines that only an earlier export had are deleted there; other files, such as pictures of the card,
    stay, and so does a card that was edited there, with a warning.

    Args:
        folder: The folder that ``export`` wrote.
        repository: USER/NAME; it is created if it does not exist.
        private: Create it as a private one, and refuse a public one.

    Raises:
        UserError: If there is no valid token, it may not write there, the repository is public and shall not be, or the
            hub cannot be reached.
    """
    check_repository(repository)
    api = HfApi(library_name="dmaxlit")
    try:
        api.whoami()  # a missing or wrong token is refused before the upload
        address = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(repository).private:  # it existed, and stays as it is
            raise UserError(f"private: expected a private repository, or a new one, got the public {repository!r}")
        ignored = [".*", "*/.*"]
        card = _edited_card_there(api, repository)
        _note_card(folder, is_uploaded=card is None)
        if card is not None:
            ignored.append(CARD_FILE)
            if card != (folder / CARD_FILE).read_bytes():
                warnings.warn(
                    f"push_to_hub: {CARD_FILE} of {repository!r} was edited there, and stays; "
                    f"`hf upload {repository} {folder / CARD_FILE} {CARD_FILE}` replaces it",
                    DMaxWarning,
                    stacklevel=2,
                )
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Model exported by dmaxlit",
            ignore_patterns=ignored,
            delete_patterns=[*_optional_files(api, repository), *(f"{name}/*" for name in OPTIONAL_FOLDERS)],
        )
    except UserError:
        raise
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


def _optional_files(api: HfApi, repository: str) -> list[str]:
    """Return a pattern for each file on the hub that an export has only sometimes; ``*`` would match in folders too."""
    names = [name for name in api.list_repo_files(repository) if "/" not in name]
    return [escape(name) for name in names if any(fnmatchcase(name, pattern) for pattern in OPTIONAL_FILES)]


def _note_card(folder: Path, is_uploaded: bool) -> None:
    """Note in ``dmaxlit.json`` which card is uploaded, lest one that was edited here counts as edited on the hub."""
    path = folder / METADATA_FILE
    if path.is_file():
        metadata = {name: value for name, value in read_metadata(folder).items() if name != _UPLOADED}
        noted = {_UPLOADED: card_hash((folder / CARD_FILE).read_bytes())} if is_uploaded else {}
        write_text(path, json.dumps({**metadata, **noted}, indent=2, sort_keys=True) + "\n")


def _edited_card_there(api: HfApi, repository: str) -> bytes | None:
    """Return the card on the hub if a user wrote or edited it there, else None."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file in (CARD_FILE, METADATA_FILE):
            with contextlib.suppress(RemoteEntryNotFoundError):
                api.hf_hub_download(repository, file, local_dir=folder)
        card = edited_card(folder)
        with contextlib.suppress(UserError):  # damaged
            if card is not None and card_hash(card) == read_metadata(folder).get(_UPLOADED):
                return None
        return card

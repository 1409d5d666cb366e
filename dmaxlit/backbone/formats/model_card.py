"""``README.md`` of an exported model: what it is, and how it is loaded and decoded."""

import hashlib
from pathlib import Path
from typing import Any

import yaml
from transformers import PretrainedConfig

from dmaxlit.backbone.formats.hub import HUB_ID
from dmaxlit.backbone.formats.judged import decoding_title, figures_table
from dmaxlit.backbone.formats.metadata import is_autoregressive, read_metadata
from dmaxlit.errors import UserError
from dmaxlit.version import __version__

CARD_FILE = "README.md"

_TEXT = """\
---
{front_matter}---
# {name}

{about}

{facts}
{figures}"""

_DIFFUSION = """\
A diffusion language model: it starts from masked tokens and fills in a block of them, several in one forward pass.
`dmaxlit` decodes it:

```python
import dmaxlit

model = dmaxlit.load("{name}")  # this folder, or its id on the hub
print(model.generate("A prompt", max_new_tokens=256)[0].text)
```

or, on the command line, `dmaxlit generate --model {name} --prompt "A prompt"`.

transformers loads the weights (`AutoModelForCausalLM`), but its `generate` writes one token after the other from left
to right, which the model was not trained for, and would return nonsense. A note in `generation_config.json`, as
`bad_words_ids`, makes it refuse. Delete the note to use the weights in another way."""

_AUTOREGRESSIVE = """\
An autoregressive language model: it was trained on the next token, to become a diffusion language model by further
training, `dmaxlit fit` with `--model.backbone.pretrained {name}`. Until then transformers generates with it
(`AutoModelForCausalLM`), from left to right; `dmaxlit`, which starts from masked tokens, would make nonsense of it."""

_FIGURES = """
## Figures

{about}

{table}
"""


def make_card(name: str, config: PretrainedConfig, metadata: dict[str, Any]) -> str:
    """Return the text of a model card.

    Args:
        name: Name of the model.
        config: Its configuration.
        metadata: Content of its ``dmaxlit.json``.
    """
    base, training, task, decoding = (metadata.get(key) for key in ("base_model", "training", "task", "decoding"))
    front: dict[str, Any] = {"library_name": "dmaxlit"}
    if isinstance(base, str) and HUB_ID.fullmatch(base):
        front["base_model"] = base
    if metadata.get("datasets"):
        front["datasets"] = metadata["datasets"]
    kind = [] if is_autoregressive(metadata) else ["diffusion-language-model", "block-diffusion"]
    front["tags"] = [*kind, config.model_type]
    mask = "a causal" if is_autoregressive(metadata) else "a block-diffusion"
    about = _AUTOREGRESSIVE if is_autoregressive(metadata) else _DIFFUSION
    facts = {
        "Architecture": f"`{config.model_type}` with {mask} attention mask",
        "Block length": f"{metadata['block_length']} tokens" if metadata.get("block_length") else None,
        "Context": f"{metadata['max_length']} tokens" if metadata.get("max_length") else None,
        "Trained from": f"`{base}`" if base else None,
        **_training_facts("Trained", training),
        **_training_facts("Auxiliary model trained", metadata.get("auxiliary_training")),
        "Task": f"`{task['name']}`" if task else None,
        "Decoder": f"`{decoding_title(decoding)}`, the default of `generate`" if decoding else None,
        "Written by": f"dmaxlit {__version__}",
    }
    return _TEXT.format(
        front_matter=yaml.safe_dump(front, sort_keys=False),
        name=name,
        about=about.format(name=name),
        facts="\n".join(f"- {title}: {value}" for title, value in facts.items() if value is not None),
        figures=_figures(metadata.get("figures")),
    )


def _training_facts(title: str, training: dict[str, Any] | None) -> dict[str, str]:
    if not training:
        return {}
    if "objective" in training:
        return {f"{title} on": f"`{training['objective']}`, {training['steps']} steps"}
    return {f"{title} with noise": f"`{training['noise']}`, {training['steps']} steps"}


def _figures(figures: dict[str, Any] | None) -> str:
    if not figures or not figures["rows"]:
        return ""
    of_task = f" of `{figures['task']}`" if figures.get("task") else ""
    about = f"On {figures.get('split', 'test')} prompts{of_task}"
    made_by = f", made by `{figures['command']}`" if figures.get("command") else ""
    return _FIGURES.format(about=f"{about}{made_by}:", table=figures_table(figures["rows"]))


def card_hash(card: bytes) -> str:
    """Return what identifies a card's text."""
    return hashlib.sha256(card).hexdigest()


def edited_card(folder: Path) -> bytes | None:
    """Return the card of an earlier export if a user wrote or edited it, else None.

    Args:
        folder: Folder of the earlier export, if there is one. Its ``dmaxlit.json`` has the hash of the card as it was
            written; a damaged one counts as none.

    Raises:
        OSError: If it cannot be read.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    card = path.read_bytes()
    try:
        written = read_metadata(folder).get("card")
    except UserError:
        written = None
    return None if card_hash(card) == written else card

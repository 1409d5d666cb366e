"""Prompt templates: YAML files of a few lines that say how a row of a data set is asked."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError, describe_value, reason_of
from dmaxlit.files import expanded
from dmaxlit.tasks.prompts import TemplatedPrompt
from dmaxlit.tasks.text_files import open_text, parse_yaml
from dmaxlit.tasks.unicode import lone_surrogate

__all__ = ["Template", "known_templates", "load_template", "read_template"]

_FOLDER = Path(__file__).parent / "templates"
_FIELD = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_KEYS = ("prompt", "system", "chat", "stop", "shots")
_RESPONSE = "response"


@dataclass(frozen=True)
class Template:
    """How a row is asked.

    Args:
        name: The file's name without its suffix.
        prompt: The text, with the row's fields as ``{{question}}``. Single braces are text.
        system: Content of the system turn; the beginning of a plain prompt. Empty for none.
        chat: The prompt is the user's turn of a conversation, and worked examples are earlier turns. Otherwise it is a
            text to continue, to which no chat template is applied.
        stop: Texts at which an answer ends, such as the beginning of another question.
        shots: Worked examples: the fields of a row and a ``response``.
    """

    name: str
    prompt: str
    system: str = ""
    chat: bool = True
    stop: tuple[str, ...] = ()
    shots: tuple[Mapping[str, str], ...] = ()

    def render(self, row: Mapping[str, str], num_shots: int) -> TemplatedPrompt:
        """Return the prompt of a row.

        Args:
            row: The fields by name.
            num_shots: How many of the worked examples precede it, the first ones.
        """
        asked = [(self._fill(shot), shot[_RESPONSE]) for shot in self.shots[:num_shots]]
        question = self._fill(row)
        examples = [f"{text}{'' if text[-1:].isspace() else ' '}{response}" for text, response in asked]
        text = "\n\n".join([*([self.system] if self.system else []), *examples, question])
        if not self.chat:
            return TemplatedPrompt(text)
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for shot, response in asked:
            turns += [{"role": "user", "content": shot}, {"role": "assistant", "content": response}]
        return TemplatedPrompt(text, [*turns, {"role": "user", "content": question}])

    def answer_of(self, text: str) -> str:
        """Return a generated text up to the first of the texts at which an answer ends."""
        return text[: min((found for stop in self.stop if (found := text.find(stop)) >= 0), default=len(text))]

    def _fill(self, row: Mapping[str, str]) -> str:
        return _FIELD.sub(lambda match: row[match[1]], self.prompt)


def known_templates(task: str) -> list[str]:
    """Return the names of the templates that come with a task."""
    return sorted(path.stem for path in (_FOLDER / task).glob("*.yaml"))


def load_template(task: str, name: str, fields: Sequence[str]) -> Template:
    """Return a template by name, or from a file or folder of the user's own.

    Args:
        task: Name of the task.
        name: Name of a template that comes with the task; or the path of a ``.yaml`` file, or of a folder with one
            file, or with one that is named as the task is.
        fields: Names of the row's fields, which the prompt may use; at least one has to be used.

    Raises:
        UserError: If there is none, with the known names, or it is no template, with file and key.
    """
    path = Path(expanded(name))
    if name in known_templates(task):
        return read_template(_FOLDER / task / f"{name}.yaml", fields)
    if os.path.isdir(expanded(name)):
        files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file())
        chosen = [file for file in files if file.stem == task] or files
        if len(chosen) != 1:
            raise UserError(f"template: expected one .yaml file, or a {task}.yaml, in {name!r}, got {len(files)} files")
        return read_template(chosen[0], fields)
    if path.suffix in (".yaml", ".yml"):
        return read_template(path, fields)
    known = ", ".join(known_templates(task)) or "none"
    raise UserError(f"template: expected one of {task} ({known}), or a .yaml file, got {name!r}")


def read_template(path: Path, fields: Sequence[str]) -> Template:
    """Read a template.

    Args:
        path: A YAML file with ``prompt`` and, if need be, ``system``, ``chat``, ``stop`` and ``shots``.
        fields: Names of the row's fields.

    Raises:
        UserError: If it cannot be read, or a key is unknown or of another kind.
    """
    content = _read_yaml(path)
    if (surrogate := lone_surrogate(content)) is not None:
        raise UserError(f"template: {str(path)!r}: has a lone surrogate ({surrogate})")
    if not isinstance(content, dict):
        raise UserError(f"template: {str(path)!r}: expected keys such as prompt, got {describe_value(content)}")
    for key in content:
        if key not in _KEYS:
            raise UserError(f"template: {str(path)!r}: expected keys of {', '.join(_KEYS)}, got {key!r}")
    prompt, system = content.get("prompt"), content.get("system") or ""
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"template: {str(path)!r}, prompt: expected a text, got {prompt!r}")
    if not isinstance(system, str) or _FIELD.search(system):
        raise UserError(f"template: {str(path)!r}, system: expected a text without fields, got {system!r}")
    used = set(_FIELD.findall(prompt))
    if not used or (unknown := sorted(used.difference(fields))):
        known = ", ".join(f"{{{{{field}}}}}" for field in fields)
        came = f"{{{{{unknown[0]}}}}}" if used else "none"
        raise UserError(f"template: {str(path)!r}, prompt: expected fields of {known}, got {came}")
    chat, stop = content.get("chat", True), content.get("stop") or []
    if not isinstance(chat, bool):
        raise UserError(f"template: {str(path)!r}, chat: expected true or false, got {chat!r}")
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise UserError(f"template: {str(path)!r}, stop: expected a list of texts, got {stop!r}")
    return Template(path.stem, prompt, system, chat, tuple(stop), _shots(path, content.get("shots") or [], used))


def _shots(path: Path, shots: Any, used: set[str]) -> tuple[Mapping[str, str], ...]:
    if not isinstance(shots, list):
        raise UserError(f"template: {str(path)!r}, shots: expected a list, got {describe_value(shots)}")
    for number, shot in enumerate(shots, start=1):
        needed = {*used, _RESPONSE}
        if not isinstance(shot, dict) or shot.keys() != needed or not all(isinstance(v, str) for v in shot.values()):
            came = ", ".join(map(str, shot)) if isinstance(shot, dict) else describe_value(shot)
            raise UserError(
                f"template: {str(path)!r}, shots, item {number}: expected texts {', '.join(sorted(needed))}, got {came}"
            )
    return tuple(shots)


def _read_yaml(path: Path) -> Any:
    import yaml

    with open_text(path, "template") as file:
        try:
            return parse_yaml(file.read())
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"template: cannot read {str(path)!r} ({reason_of(error)})") from error

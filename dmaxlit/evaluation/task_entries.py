"""The tasks of an evaluation: by name, or from a list with options, one entry for each of several templates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from dmaxlit.constructors import constructor_options
from dmaxlit.errors import UserError, describe_value, reason_of
from dmaxlit.evaluation.labels import check_label, check_mapping
from dmaxlit.evaluation.run_folder import FILES
from dmaxlit.tasks import TASKS, Task, task

_KEYS = ("name", "options", "label")
_TEMPLATE = "template"


@dataclass(frozen=True)
class TaskEntry:
    """A task with its options.

    Args:
        label: Its name in tables and folders.
        name: Registered name, or import path.
        task: The task.
    """

    label: str
    name: str
    task: Task

    @property
    def template(self) -> str | None:
        """The template's name or file; None for a task without templates."""
        value = self.task.options().get(_TEMPLATE)
        return None if value is None else str(value)

    def unlike(self, trained: Mapping[str, Any]) -> list[str]:
        """Return the options that nobody has set here and that a model was trained with other values of.

        Args:
            trained: The options of the task that the model was trained on.
        """
        here, parameters = self.task.options(), constructor_options(type(self.task))
        unset = {name for name, value in here.items() if name in parameters and value == parameters[name].default}
        return [name for name in trained if name in unset and here[name] != trained[name]]

    def facts(self) -> dict[str, Any]:
        """Return what a record says of the task besides its settings: template, few-shot count, and its own facts.

        Raises:
            UserError: If the task cannot grade on this machine, for instance without a sandbox.
        """
        return {"template": self.template, "shots": self.task.options().get("shots"), **self.task.record()}


def task_entries(
    entries: Sequence[Any], options: Mapping[str, Mapping[str, Any]] | None = None, source: str = "tasks"
) -> list[TaskEntry]:
    """Return the tasks of an evaluation.

    Args:
        entries: Names, or mappings with ``name``, ``options`` and ``label`` (default: the name, or the last part of an
            import path). Several templates, as a list, make an entry each, labelled ``LABEL-TEMPLATE``.
        options: More options of tasks, by their labels or names.
        source: Where the entries come from, for messages.

    Raises:
        UserError: For no entries, something that is none, an unknown task or option, a label that is the name of
            a run's file, or two tasks of one label.
    """
    if not entries:
        raise UserError(f"{source}: expected at least one task, got none")
    forms = [_form(entry, f"{source}, item {number}") for number, entry in enumerate(entries, start=1)]
    more = dict(options or {})
    for key in more:
        if key not in {name for label, task_name, _ in forms for name in (label, task_name)}:
            known = ", ".join(label for label, *_ in forms)
            raise UserError(f"task.{key}: expected options of one of the tasks {known}, got those of {key!r}")
    tasks: dict[str, TaskEntry] = {}
    for label, name, own in forms:
        for entry in _with_templates(label, name, {**own, **more.get(name, {}), **more.get(label, {})}):
            if entry.label in tasks:
                raise UserError(f"{source}: expected a different label for each task, got {entry.label!r} twice")
            tasks[entry.label] = entry
    return list(tasks.values())


def _form(entry: Any, source: str) -> tuple[str, str, dict[str, Any]]:
    """Return the label, the name and the options of an entry."""
    if isinstance(entry, str):
        entry = {"name": entry}
    fields = check_mapping(entry, _KEYS, source)
    name = fields["name"]
    label = check_label(fields.get("label", name.rpartition(".")[2]), source)
    if label.lower() in FILES:
        raise UserError(f"{source}: expected another label than the names of a run's files, got {label!r}")
    return label, name, dict(fields.get("options") or {})


def _with_templates(label: str, name: str, options: Mapping[str, Any]) -> list[TaskEntry]:
    templates = options.get(_TEMPLATE)
    if not isinstance(templates, list) or _TEMPLATE not in constructor_options(TASKS.get(name)):
        return [TaskEntry(label, name, _build(name, options))]
    if not templates or not all(isinstance(template, str) for template in templates):
        raise UserError(f"task.{label}.template: expected names or files, got {describe_value(templates)}")
    return [
        TaskEntry(
            check_label(f"{label}-{PurePath(template).stem}", "template"),
            name,
            _build(name, {**options, _TEMPLATE: template}),
        )
        for template in templates
    ]


def _build(name: str, options: Mapping[str, Any]) -> Task:
    try:
        return task(name, **options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:  # a constructor that does not check the types of its options
        raise UserError(f"task {name!r}: refuses its options ({reason_of(error)})") from error

"""Judge the answers of an evaluation again, with other options of grading, without decoding them again."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmaxlit.data.identity import answers_hash, difference, prompts_hash
from dmaxlit.errors import UserError, reason_of, renaming_argument
from dmaxlit.evaluation.cell_result import CellResult
from dmaxlit.evaluation.judging import made_rows, num_judges
from dmaxlit.evaluation.labels import sample_path
from dmaxlit.evaluation.record import make_record, read_record
from dmaxlit.evaluation.run_folder import claim_folder
from dmaxlit.evaluation.run_report import finished_table, write_run_report
from dmaxlit.evaluation.sample_files import TASK_OPTIONS, SampleFile, read_rows, read_settings
from dmaxlit.evaluation.sample_rows import judged
from dmaxlit.evaluation.software import software
from dmaxlit.evaluation.task_entries import TaskEntry, task_entries
from dmaxlit.locks import exclusive_folder
from dmaxlit.tasks import TASKS, Example

# What the figures of a setting are known by, and made of.
_NAMES = ("task", "title", "line", "threshold", "samples", "decoder", "options")
_FIGURES = ("num_tokens", "num_forwards", "num_prompt_tokens", "hit_step_limit", "finished")


@dataclass(frozen=True)
class GradedRun:
    """A complete evaluation whose answers are judged again.

    Its folder may come from anywhere. So its record imports no class, writes to no other folder, and does not say how
    code in answers is separated.

    Args:
        folder: Its folder.
        record: Its record.
    """

    folder: Path
    record: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "GradedRun":
        """Read the record of an evaluation.

        Raises:
            UserError: If the folder holds no complete evaluation.
        """
        record = read_record(folder, "regrade")
        try:
            settings = record["settings"]
            _ = settings["split"], settings["block_length"], record["model"], record["baselines"], record["device"]
            for task in settings["tasks"].values():
                _ = [task[name] for name in ("name", "options", "num_prompts", "prompts")]
            for result in record["results"]:
                _ = [result[name] for name in (*_NAMES, "timing")], settings["tasks"][result["task"]]
                if result["samples"] != sample_path(result["task"], result["title"]).as_posix():
                    raise TypeError(f"answers in {result['samples']!r}")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"regrade: expected the record of an evaluation in {str(folder)!r}, got another one "
                f"({reason_of(error)})"
            ) from error
        return cls(folder, record)

    @property
    def task_names(self) -> list[str]:
        """Labels and names of its tasks."""
        tasks = self.record["settings"]["tasks"]
        return list(dict.fromkeys([*tasks, *(task["name"] for task in tasks.values())]))

    def entries(self, options: Mapping[str, Mapping[str, Any]], imports: Collection[str] = ()) -> list[TaskEntry]:
        """Return its tasks, with the default ``sandbox`` if the options do not have one.

        Args:
            options: Options that differ, by the labels or names of the tasks.
            imports: Import paths of tasks that are not registered.

        Raises:
            UserError: For an unknown task or option, a list of templates, or a task that is neither registered nor
                imported.
        """
        forms = []
        for label, task in self.record["settings"]["tasks"].items():
            if task["name"] not in TASKS and task["name"] not in imports:
                raise UserError(
                    f"regrade: expected a registered task, or --tasks with its import path, got {task['name']!r} in "
                    f"{str(self.folder)!r}"
                )
            own = {name: value for name, value in task["options"].items() if name != "sandbox"}
            forms.append({"name": task["name"], "label": label, "options": own})
        entries = task_entries(forms, options, "regrade")
        for entry in entries:
            if entry.label not in self.record["settings"]["tasks"]:
                got = f"a list with {entry.template!r}"
                raise UserError(f"task.{entry.name}.template: expected one, as answered, got {got}")
        return entries

    def examples(self, entry: TaskEntry) -> list[Example]:
        """Return the prompts of a task, with the checkers of its options.

        Raises:
            UserError: If they are not those that the run has answered.
        """
        settings = self.record["settings"]
        asked = settings["tasks"][entry.label]
        available = entry.task.count(settings["split"])
        number = asked["num_prompts"]
        with renaming_argument("regrade", "n"):
            examples = (
                [] if available is not None and available < number else entry.task.examples(settings["split"], number)
            )
        if prompts_hash([example.prompt for example in examples]) != asked["prompts"]:
            raise UserError(
                f"regrade: expected options of {entry.label!r} that leave its prompts as {str(self.folder)!r} has "
                "answered them, got other prompts"
            )
        return examples

    def settings(self, entries: Sequence[TaskEntry], examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
        """Return the settings of the run with the options and reference answers of other tasks.

        Args:
            entries: The tasks.
            examples: Their examples, by label.
        """
        tasks, changed = self.record["settings"]["tasks"], {}
        for entry in entries:
            judged = {"options": entry.task.options(), "answers": answers_hash(examples[entry.label])}
            changed[entry.label] = {**tasks[entry.label], **judged}
        return {**self.record["settings"], "tasks": changed}

    def verdicts(self) -> dict[str, Any]:
        """Return what new verdicts are of, beside the settings: these answers, and the software that judges them."""
        answers = hashlib.sha256()
        for result in self.record["results"]:
            answers.update((self.folder / result["samples"]).read_bytes())
        return {"answers": str(self.folder), "answers_sha256": answers.hexdigest(), "software": software()}


def regrade(
    source: Path,
    output: Path,
    options: Mapping[str, Mapping[str, Any]],
    imports: Collection[str] = (),
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Judge the answers of an evaluation again, write them as an evaluation of their own, and return the tables.

    Tokens, forwards and times are those of the evaluation. What is written is what it would have written with these
    options; the record names where the answers come from.

    Args:
        source: Folder of a complete evaluation, which stays as it is.
        output: Another folder to write.
        options: Options of tasks that differ, by label or name: such as ``lenient`` or ``seconds``. Those that change
            prompts are refused. How code is separated (``sandbox``) is the default if it is not among them.
        imports: Import paths of tasks of the evaluation that are not registered.
        overwrite: Remove the results of a run that is complete, or has other settings.
        progress: Show a progress bar.

    Raises:
        UserError: If the source is no complete evaluation, prompts differ, or the output cannot be used, or is complete
            and of other answers or software.
    """
    run = GradedRun.read(source)
    if output.exists() and not output.is_dir():
        raise UserError(f"output: expected a folder to write, got {str(output)!r}, which is none")
    if output.resolve() == source.resolve():
        raise UserError(f"output: expected another folder than that of the answers, got {str(output)!r}")
    entries = run.entries(options, imports)
    examples = {entry.label: run.examples(entry) for entry in entries}
    facts = {entry.label: entry.facts() for entry in entries}
    runs_answers = {entry.label: entry.task.runs_answers for entry in entries}
    for result in run.record["results"]:
        _rows(run, result, len(examples[result["task"]]))  # refuses damaged ones before anything is written
    settings = run.settings(entries, examples)
    with ExitStack() as stack:
        stack.enter_context(exclusive_folder(output, "output"))
        claim_folder(output, settings, overwrite)
        if (table := finished_table(output)) is not None:
            before, now = read_record(output, "output").get("regraded"), run.verdicts()
            if before != now:
                raise UserError(
                    f"output: expected a new folder, or --overwrite true, got {str(output)!r}, whose verdicts are of "
                    f"other answers or software: {difference(before or {}, now)}"
                )
            return table
        results = [
            _judge(run, entry, examples[entry["task"]], runs_answers[entry["task"]], settings, output, progress)
            for entry in run.record["results"]
        ]
        return write_run_report(output, _record(run, settings, facts, results), results)


def _judge(
    run: GradedRun,
    entry: Mapping[str, Any],
    examples: Sequence[Example],
    runs_answers: bool,
    settings: Mapping[str, Any],
    output: Path,
    progress: bool,
) -> CellResult:
    """Judge the answers of a setting, write them, and return the figures."""
    stored = _rows(run, entry, len(examples))
    title = f"{entry['task']}, {entry['title']}"
    bar = tqdm(stored, desc=title, unit="answer", leave=False, disable=None if progress else True)
    answers = [(example, row["response"]) for row, example in zip(stored, examples, strict=True)]
    verdicts = made_rows((partial(judged, *answer) for answer in answers), num_judges(runs_answers))
    rows = [{**row, **verdict} for row, verdict in zip(bar, verdicts, strict=True)]
    timing = {name: value for name, value in entry["timing"].items() if name != "tokens_per_second"}
    identity = {
        **read_settings(run.folder / entry["samples"]),
        TASK_OPTIONS: settings["tasks"][entry["task"]]["options"],
        "answers": settings["tasks"][entry["task"]]["answers"],
    }
    SampleFile(output / entry["samples"], identity).finish(dict(enumerate(rows)), timing)
    names = {name: entry[name] for name in _NAMES}
    return CellResult.of_rows(rows, timing, block_length=run.record["settings"]["block_length"], **names)


def _rows(run: GradedRun, entry: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the answers of a setting.

    Raises:
        UserError: If they cannot be read, or are not those of all prompts.
    """
    path = run.folder / entry["samples"]
    try:
        rows = read_rows(path)
        complete = [row["index"] for row in rows] == list(range(count))
        complete = complete and all(isinstance(row["response"], str) for row in rows)
        _ = [row[name] for row in rows for name in _FIGURES]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"regrade: cannot read {str(path)!r} ({reason_of(error)})") from error
    if not complete:
        raise UserError(f"regrade: expected {count} answers in order in {str(path)!r}, got others")
    return rows


def _record(
    run: GradedRun, settings: dict[str, Any], facts: dict[str, dict[str, Any]], results: Sequence[CellResult]
) -> dict[str, Any]:
    """Return the record of a run: software and revision are those of its answers, those of the verdicts beside them."""
    old = run.record
    environments = old.get("environments", [])
    record = make_record(settings, old["model"], old["baselines"], facts, results, old["device"], environments)
    return {**record, "software": old["software"], "regraded": run.verdicts()}

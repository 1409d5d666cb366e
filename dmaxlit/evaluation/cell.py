"""One cell of an evaluation, a task answered in one way: decoded, judged and recorded, resumable at each sample."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dmaxlit.data.encoding import encode_prompts
from dmaxlit.data.parts import PartWriter
from dmaxlit.engine import Generation
from dmaxlit.engine.trace import RowTrace
from dmaxlit.errors import PromptError, UserError
from dmaxlit.evaluation.answerers import Answerer
from dmaxlit.evaluation.clock import DecodeClock
from dmaxlit.evaluation.judging import WaitingRows, num_judges
from dmaxlit.evaluation.labels import sample_path
from dmaxlit.evaluation.limits import Limits
from dmaxlit.evaluation.running_figures import RunningFigures
from dmaxlit.evaluation.sample_files import SampleFile, Stored, read_journal
from dmaxlit.evaluation.sample_rows import sample_row
from dmaxlit.evaluation.task_entries import TaskEntry
from dmaxlit.locks import exclusive
from dmaxlit.ranks import Ranks
from dmaxlit.tasks import Example


@dataclass(frozen=True)
class Cell:
    """A task answered in one way.

    Args:
        entry: The task.
        examples: Its prompts with their checkers.
        limits: What ends an answer.
        answerer: Who answers.
    """

    entry: TaskEntry
    examples: Sequence[Example]
    limits: Limits
    answerer: Answerer

    @property
    def title(self) -> str:
        """The task's label and the setting's title."""
        return f"{self.entry.label}, {self.answerer.title}"

    @property
    def file(self) -> Path:
        """Path of the samples in the output folder."""
        return sample_path(self.entry.label, self.answerer.title)

    def run(self, file: SampleFile, ranks: Ranks, progress: bool = True, number: str = "") -> None:
        """Answer the prompts that no process has answered yet, each process its share, and write the file.

        Args:
            file: The file of samples. If it is complete, no more is done than to remove journals.
            ranks: The processes.
            progress: Show a progress bar, with the accuracy and TPF so far.
            number: Beginning of the bar's title.

        Raises:
            UserError: If the file cannot be written; what was recorded before is kept.
        """
        if ranks.from_main(file.timing) is not None:
            ranks.from_main(file.remove_journals)  # of a process that was killed before it did
            return
        stored = ranks.from_main(file.stored)
        remaining = [index for index in range(len(self.examples)) if index not in stored.rows]
        share = remaining[ranks.rank :: ranks.world_size]
        title = f"{number} {self.title}".strip() if progress and ranks.is_main else None
        own = ranks.together(lambda: self._answer(share, file, ranks, stored, title))
        resumed = bool(stored.rows)
        for more in ranks.gather(own):
            stored.add(more)
        timing = {
            "seconds": stored.seconds,
            "batch_size": self.answerer.batch_size,
            "processes": ranks.world_size,
            "resumed": resumed,
        }
        ranks.from_main(lambda: file.finish(stored.rows, timing))
        if not ranks.is_main:
            file.remove_journals([ranks.rank])

    def _answer(
        self, share: Sequence[int], file: SampleFile, ranks: Ranks, stored: Stored, title: str | None
    ) -> Stored:
        """Answer this process's share, and return its rows and the time they took."""
        if not share:
            return Stored()
        examples = [self.examples[index] for index in share]
        prompts = [example.prompt for example in examples]
        lengths = [len(ids) for ids in encode_prompts(self.answerer.tokenizer, prompts)]
        with ExitStack() as stack:
            journal = file.journal(ranks.rank)
            stack.enter_context(exclusive(journal.output, "output"))
            before = read_journal(journal)
            longest = lengths.index(max(lengths))  # shapes of compiled forwards depend on it
            try:
                self.answerer.warm_up([prompts[longest], *prompts[:longest], *prompts[longest + 1 :]], self.limits)
            except PromptError as error:
                raise UserError(f"{self.entry.label}: {error.reason}") from error
            clock = DecodeClock(self.answerer.device)
            writer = PartWriter(journal, lambda: clock.seconds)
            stack.callback(writer.record)  # also what was judged before Ctrl-C
            bar = stack.enter_context(RunningFigures(stored, len(share), title))

            def use(row: dict[str, Any]) -> None:
                writer.add(row)
                bar.count(row)

            rows = WaitingRows(use, num_judges(self.entry.task.runs_answers, ranks.local_world_size))
            stack.callback(rows.rescue)  # what waits to be judged when an error or Ctrl-C ends this

            def take(position: int, answer: Generation, trace: RowTrace | None) -> None:
                of_prompt = share[position], examples[position], answer, lengths[position], trace
                if rows.add(partial(sample_row, *of_prompt)):
                    with clock.paused():
                        rows.make()
                ranks.end_with_parent()

            try:
                with clock.running():
                    self.answerer.answer(prompts, share, self.limits, take)
                rows.make()
            except PromptError as error:
                raise UserError(f"{self.entry.label}: prompt {share[error.index] + 1}: {error.reason}") from error
            writer.record()
            after = read_journal(journal)
        new = {index: row for index, row in after.rows.items() if index not in before.rows}
        return Stored(new, after.seconds - before.seconds)

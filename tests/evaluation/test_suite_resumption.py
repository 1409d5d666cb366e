"""A suite that was interrupted, is run again, or finds another run in its folder."""

import json
import multiprocessing
import os
import signal
from datetime import date
from unittest.mock import Mock

import pytest

from dmaxlit.data import parts
from dmaxlit.errors import DMaxWarning, UserError
from dmaxlit.evaluation import cell, judging
from dmaxlit.evaluation import suite as suite_module
from dmaxlit.evaluation.run_folder import claim_folder
from dmaxlit.evaluation.sample_files import SampleFile, Stored
from dmaxlit.evaluation.suite import cell_identity
from dmaxlit.tasks import ChainTask
from tests.conftest import limited_files
from tests.evaluation.suites import FILES, contents, one_process, rows, run, suite
from tests.lock_holder import held_by_another

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_same_run_again_decodes_nothing_and_gives_the_same_table(module, ranks, tmp_path, monkeypatch):
    table = run(module, ranks, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(module, "generate_batch", None)
    assert run(module, ranks, tmp_path) == table
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != tmp_path} == before
    (tmp_path / "table.md").unlink()
    assert run(module, ranks, tmp_path) == table


def _run_and_die(module, output, num_rows):
    """Run, and be killed as soon as some more rows are on the disk."""
    add, count = parts.PartWriter.add, [0]

    def add_and_die(self, row):
        add(self, row)
        count[0] += 1
        if count[0] == num_rows:
            os.kill(os.getpid(), signal.SIGKILL)

    parts.PartWriter.add = add_and_die
    run(module, one_process(), output, num_prompts=7, batch_size=3)


@pytest.mark.slow
def test_killed_ten_times_is_one_whole_run(module, ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_RECORD_SECONDS", 0.0)
    run(module, ranks, tmp_path / "whole", num_prompts=7, batch_size=3)
    fork = multiprocessing.get_context("fork")
    for attempt in range(10):
        process = fork.Process(target=_run_and_die, args=(module, tmp_path / "killed", 1 + attempt % 3))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "record.json").exists()
    run(module, ranks, tmp_path / "killed", num_prompts=7, batch_size=3)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def _interrupted_after(generate_batch, number):
    """Return ``generate_batch``, ended by Ctrl-C after some answers."""

    def interrupted(*arguments, on_response=None, **settings):
        answers = []

        def count(index, answer):
            if on_response is not None:
                on_response(index, answer)
                answers.append(index)
            if len(answers) == number:
                raise KeyboardInterrupt

        return generate_batch(*arguments, on_response=count, **settings)

    return interrupted


def test_answers_that_wait_for_others_to_be_judged_with_are_kept_at_an_interruption(
    module, ranks, tmp_path, monkeypatch
):
    run(module, ranks, tmp_path / "whole")
    monkeypatch.setattr(ChainTask, "runs_answers", True)
    monkeypatch.setattr(judging, "_num_processors", lambda: 4)  # for which 16 answers would wait
    with monkeypatch.context() as patch:
        patch.setattr(module, "generate_batch", _interrupted_after(module.generate_batch, 3))
        with pytest.raises(KeyboardInterrupt):
            run(module, ranks, tmp_path / "out")
    (journal,) = (tmp_path / "out/chain").glob(".*.partial")
    assert len(rows(journal)) == 3
    run(module, ranks, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_record_names_the_code_and_the_batches_of_all_answers(module, ranks, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(suite_module, "software", lambda: {"revision": "earlier"})
        patch.setattr(module, "generate_batch", _interrupted_after(module.generate_batch, 3))
        with pytest.raises(KeyboardInterrupt):
            run(module, ranks, tmp_path)
    with pytest.warns(DMaxWarning, match="keeps answers of another environment: software"):
        run(module, ranks, tmp_path, batch_size=3)
    record = json.loads((tmp_path / "record.json").read_text())
    first, second = record["environments"]
    assert first["software"] == {"revision": "earlier"}
    assert second["software"] == record["software"]
    assert (first["batch_size"], second["batch_size"], second["device"]) == (2, 3, record["device"])


def test_an_evaluation_under_two_dates_that_the_chat_template_writes_says_so(module, ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module.tokenizer, "chat_template", "{% set day = strftime_now('%d') %}{{ messages[0].content }}"
    )
    with monkeypatch.context() as patch:
        patch.setattr(suite_module, "written_day", lambda tokenizer: "2026-03-14" if tokenizer.chat_template else None)
        patch.setattr(module, "generate_batch", _interrupted_after(module.generate_batch, 3))
        with pytest.raises(KeyboardInterrupt):
            run(module, ranks, tmp_path)
    with pytest.warns(DMaxWarning, match="keeps answers of another environment: date was '2026-03-14', now"):
        run(module, ranks, tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    assert [each["date"] for each in record["environments"]] == ["2026-03-14", date.today().isoformat()]


def test_journals_of_a_process_that_was_killed_once_its_file_was_whole_are_removed(
    module, ranks, tmp_path, monkeypatch
):
    run(module, ranks, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(SampleFile, "remove_journals", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(module, ranks, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.partial"))
    run(module, ranks, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("file", [".one_token.rank0.jsonl.partial", "one_token.jsonl"])
def test_a_damaged_file_of_answers_is_one_line(module, ranks, tmp_path, monkeypatch, file):
    last = "sample_files.SampleFile.finish" if file.startswith(".") else "suite.write_run_report"
    with monkeypatch.context() as patch:
        patch.setattr(f"dmaxlit.evaluation.{last}", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(module, ranks, tmp_path)
    path = tmp_path / "chain" / file
    path.write_bytes(bytes(9) + path.read_bytes()[9:])
    with pytest.raises(UserError, match=rf"{file}: is damaged at byte 0"):
        run(module, ranks, tmp_path)


def test_the_processors_of_a_node_are_shared_by_its_own_processes(module, ranks, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cell, "num_judges", lambda runs_answers, processes: asked.append(processes) or 1)
    monkeypatch.setattr(type(ranks), "local_world_size", 2)  # of six on three nodes
    run(module, ranks, tmp_path, decoders=["one_token"])
    assert asked == [2]


def test_journals_of_any_number_of_processes_are_resumed(module, ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_RECORD_SECONDS", 0.0)
    run(module, ranks, tmp_path / "whole")
    one = suite()
    cells = one.cells(module)
    settings = one.settings(module, json.loads((tmp_path / "whole/settings.json").read_text())["model"], cells)

    output = tmp_path / "shared"
    output.mkdir()
    claim_folder(output, settings)
    file = SampleFile(output / cells[0].file, cell_identity(settings, cells[0]))
    for rank, share in ((0, [0]), (1, [3, 1]), (2, [4])):
        one_of_three = one_process()
        one_of_three.rank = rank
        cells[0]._answer(share, file, one_of_three, Stored(), None)
    assert sorted(file.stored().rows) == [0, 1, 3, 4]
    run(module, ranks, output)
    assert contents(output) == contents(tmp_path / "whole")


def test_files_begun_without_the_options_of_the_task_are_resumed(module, ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_RECORD_SECONDS", 0.0)
    run(module, ranks, tmp_path / "whole")
    one, output = suite(), tmp_path / "old"
    cells = one.cells(module)
    settings = one.settings(module, json.loads((tmp_path / "whole/settings.json").read_text())["model"], cells)
    output.mkdir()
    claim_folder(output, settings)
    finished, begun = (
        SampleFile(output / cell.file, _identity_without_task_options(settings, cell)) for cell in cells[:2]
    )
    cells[0].run(finished, ranks, False)
    cells[1]._answer([2], begun, ranks, Stored(), None)
    old = finished.path.stat().st_mtime_ns
    run(module, ranks, output)
    assert finished.path.stat().st_mtime_ns == old  # not answered again
    assert json.loads((output / f"{cells[1].file}.manifest.json").read_text())["timing"]["resumed"]
    kept = {name: value for name, value in contents(output).items() if not name.endswith(".manifest.json")}
    whole = contents(tmp_path / "whole")
    assert kept == {name: whole[name] for name in kept}
    with pytest.raises(UserError, match=r"tasks.chain.options.operations was 3, now 4"):
        run(module, ranks, output, options={"chain": {"operations": 4}})


def _identity_without_task_options(settings, cell):
    return {name: value for name, value in cell_identity(settings, cell).items() if name != "task_options"}


def test_another_run_in_the_folder_is_refused_unless_overwritten(module, ranks, tmp_path):
    run(module, ranks, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"other settings: tasks.chain.num_prompts was 5, now 4"):
        run(module, ranks, tmp_path, num_prompts=4)
    with pytest.raises(UserError, match=r"decoders were .*, now .*spd tau_dec=0.1"):
        run(module, ranks, tmp_path, decoders=[{"name": "spd", "options": {"tau_dec": [0.5, 0.0, 0.1]}}])
    assert contents(tmp_path) == before
    run(module, ranks, tmp_path, num_prompts=4, overwrite=True)
    assert len(rows(tmp_path / "chain" / FILES[0])) == 4


def test_other_reference_answers_are_another_run(module, ranks, tmp_path):
    questions, output = tmp_path / "q.jsonl", tmp_path / "out"
    questions.write_text('{"prompt": "3 ?", "answer": "3"}\n')
    jsonl = {"tasks": ("jsonl",), "options": {"jsonl": {"test": str(questions)}}}
    run(module, ranks, output, **jsonl)
    questions.write_text('{"prompt": "3 ?", "answer": "4"}\n')
    with pytest.raises(UserError, match=r"other settings: tasks.jsonl.answers was"):
        run(module, ranks, output, **jsonl)
    settings = json.loads((output / "settings.json").read_text())
    del settings["tasks"]["jsonl"]["answers"]  # as earlier versions
    (output / "settings.json").write_text(json.dumps(settings))
    run(module, ranks, output, **jsonl)


def test_only_one_process_evaluates_into_a_folder(module, ranks, tmp_path):
    with held_by_another(tmp_path / "out", "exclusive_folder"), pytest.raises(UserError, match=r"output: .*by process"):
        run(module, ranks, tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"output: expected a folder to write, got '.*file'"):
        run(module, ranks, tmp_path / "file")


def test_a_full_disk_is_one_line_and_what_was_recorded_is_resumed(module, ranks, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_RECORD_SECONDS", 0.0)
    run(module, ranks, tmp_path / "whole")
    size = (tmp_path / "whole/chain" / FILES[0]).stat().st_size
    with limited_files(int(size * 0.7)), pytest.raises(UserError, match=r"output: cannot write .*\(File too large\)"):
        run(module, ranks, tmp_path / "full")
    run(module, ranks, tmp_path / "full")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")

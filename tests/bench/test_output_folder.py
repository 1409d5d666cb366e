import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.bench import output_folder
from dmaxlit.bench.command import recipe_hashes
from dmaxlit.bench.output_folder import holds_output, record_settings, write_results
from dmaxlit.errors import DMaxWarning
from tests.lock_holder import held_by_another


@dataclass(frozen=True)
class Bench:
    output: Path

    @holds_output
    def run(self):
        """Return the table."""
        return "table"


def test_a_benchmark_does_not_run_while_another_process_writes_to_its_folder(tmp_path):
    with held_by_another(tmp_path / "out", "exclusive_folder"), pytest.raises(UserError, match=r"output: .*by process"):
        Bench(tmp_path / "out").run()
    assert Bench(tmp_path / "out").run() == "table"
    assert Bench.run.__doc__ == "Return the table."


@pytest.mark.filterwarnings("ignore:output. what .* keeps is of other versions:dmaxlit.errors.DMaxWarning")
def test_results_by_other_recipes_are_not_mixed_in(tmp_path):
    configs, out = tmp_path / "configs", tmp_path / "out"
    configs.mkdir()

    def claim(*names, base="trainer: {max_steps: 5}", recipe="config: base.yaml\nmodel: {noise: masked}"):
        (configs / "base.yaml").write_text(base)
        (configs / "own.yaml").write_text(recipe)
        record_settings(out, {"steps": 7}, recipe_hashes(configs, names))

    record_settings(out, {"steps": 7})  # as older versions did, which recorded none
    claim("own.yaml")
    claim("base.yaml")  # of another part of the benchmark
    claim("own.yaml", recipe="# a comment\nconfig: ./base.yaml\nmodel: {noise: masked}")
    for change in ({"base": "trainer: {max_steps: 6}"}, {"recipe": "config: base.yaml\nmodel: {noise: uniform}"}):
        with pytest.raises(
            UserError,
            match=rf"^configs: expected own\.yaml as it was for the results in {out}, got another; choose .* --output$",
        ):
            claim("own.yaml", **change)
    claim("own.yaml", "base.yaml")


def test_versions_of_the_code_are_recorded_and_others_named_in_a_warning(tmp_path, monkeypatch, recwarn):
    versions = {"dmaxlit": "1.0", "torch": "3.1"}
    monkeypatch.setattr(output_folder, "software", lambda: dict(versions))
    for _ in range(2):
        record_settings(tmp_path, {"steps": 7})
    assert not recwarn
    versions["torch"] = "3.2"
    for _ in range(2):  # as long as it keeps such results
        with pytest.warns(DMaxWarning, match=rf"^output: what {tmp_path} keeps .*: torch was '3\.1', now '3\.2'$"):
            record_settings(tmp_path, {"steps": 7})
    recorded = json.loads((tmp_path / "settings.json").read_text())["software"]
    assert [entry["torch"] for entry in recorded] == ["3.1", "3.2"]
    (tmp_path / "part").mkdir()
    for folder in (tmp_path, tmp_path / "part"):
        write_results(folder, {"summary": []}, "table", tmp_path)
        assert json.loads((folder / "results.json").read_text()) == {"summary": [], "software": recorded}
    write_results(tmp_path / "part", {"summary": []}, "table")  # of a benchmark that keeps nothing
    assert json.loads((tmp_path / "part" / "results.json").read_text())["software"] == [versions]


def test_the_kind_of_device_that_models_are_trained_on_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "software", lambda: {"dmaxlit": "1.0"})
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    record_settings(tmp_path / "decoded", {"steps": 7})
    record_settings(tmp_path, {"steps": 7}, {"own.yaml": "hash"})
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    record_settings(tmp_path / "decoded", {"steps": 7})
    with pytest.warns(DMaxWarning, match=r": training device was 'cpu', now 'cuda'$"):
        record_settings(tmp_path, {"steps": 7}, {"own.yaml": "hash"})
    recorded = json.loads((tmp_path / "settings.json").read_text())["software"]
    assert [entry["training device"] for entry in recorded] == ["cpu", "cuda"]


def test_what_an_older_folder_does_not_record_is_not_compared(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"steps": 7}))
    for _ in range(2):
        with pytest.warns(DMaxWarning, match="keeps is of other versions: unrecorded ones"):
            record_settings(tmp_path, {"steps": 7, "device": "cpu"})
    with pytest.raises(
        UserError, match=r"^device: expected cpu, as in the results in .*, got cuda; choose another --output$"
    ):
        record_settings(tmp_path, {"steps": 7, "device": "cuda"})


def test_a_base_may_be_a_shipped_recipe_and_one_that_names_itself_ends(tmp_path):
    (tmp_path / "shipped.yaml").write_text("config: builtin:quickstart")
    (tmp_path / "itself.yaml").write_text("config: itself.yaml")
    (tmp_path / "no.yaml").write_text("a: [")
    hashes = recipe_hashes(tmp_path, ["shipped.yaml", "itself.yaml"])
    assert hashes["shipped.yaml"] != hashes["itself.yaml"]
    with pytest.raises(UserError, match=r"^configs: cannot read .*no\.yaml"):
        recipe_hashes(tmp_path, ["no.yaml"])

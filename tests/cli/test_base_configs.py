import pytest
import yaml

from dmaxlit.cli.base_configs import SETTINGS, expand_bases, without_base
from dmaxlit.errors import UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "one.yaml").write_text("model: {seed: 1}\n")
    (tmp_path / "two.yaml").write_text("config: one.yaml\nmodel: {seed: 2}\n")
    (tmp_path / "more" / "three.yaml").write_text("config: ../two.yaml\ntrainer: {max_steps: 3}\n")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "args", [["--config", "more/three.yaml"], ["-c", "more/three.yaml"], ["--config=more/three.yaml"]]
)
def test_bases_come_before_what_starts_from_them_farthest_first(args):
    assert expand_bases(["fit", *args, "--model.seed", "4"]) == [
        *("fit", "--config", "more/../one.yaml", "--config", "more/../two.yaml", "--config", "more/three.yaml"),
        *("--model.seed", "4"),
    ]


@pytest.mark.usefixtures("files")
def test_files_without_a_base_and_other_arguments_stay_as_they_are():
    args = ["--config", "one.yaml", "--model.seed", "--config", "missing.yaml"]
    assert expand_bases(args) == args


@pytest.mark.usefixtures("files")
def test_a_file_that_is_its_own_base_is_refused(tmp_path):
    (tmp_path / "one.yaml").write_text("config: more/three.yaml\n")
    with pytest.raises(UserError, match=r"is its own base"):
        expand_bases(["--config", "two.yaml"])


@pytest.mark.usefixtures("files")
def test_a_missing_base_is_refused_by_file_and_name(tmp_path):
    (tmp_path / "one.yaml").unlink()
    with pytest.raises(UserError, match=r"two.yaml: config: expected the file it starts from, got 'one.yaml'"):
        expand_bases(["--config", "two.yaml"])


def test_only_the_base_of_a_recipe_is_taken_out():
    assert without_base({"config": "a.yaml", "model": 1}) == {"model": 1}
    assert without_base({"config": "a.yaml"}) == {}
    backbone = {"config": {"model_type": "qwen3"}, "tokenizer": "chain"}
    assert without_base(backbone) == backbone
    assert without_base([1]) == [1]


@pytest.mark.usefixtures("files")
def test_a_base_of_several_files_is_inserted_once_so_that_it_undoes_nothing(tmp_path):
    (tmp_path / "other.yaml").write_text("config: more/../two.yaml\ntrainer: {max_steps: 4}\n")
    given = ["--config", "more/three.yaml", "--model.seed", "4", "--config", "other.yaml"]
    assert expand_bases(given)[-4:] == given[-4:]
    assert expand_bases(["--config", "one.yaml", "--config", "two.yaml", "--config", "one.yaml"]) == [
        *("--config", "one.yaml", "--config", "two.yaml", "--config", "one.yaml")  # as they were given
    ]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "setting", ["seed_everything: 3", "ckpt_path: a.ckpt", "checkpoint: {}", "trainer.max_steps: 3"]
)
def test_a_recipe_may_set_anything_beside_its_base(tmp_path, setting):
    (tmp_path / "mine.yaml").write_text(f"config: one.yaml\n{setting}\n")
    assert expand_bases(["--config", "mine.yaml"]) == ["--config", "one.yaml", "--config", "mine.yaml"]


@pytest.mark.parametrize("command", ["fit", "validate", "predict"])
def test_what_a_recipe_may_set_is_known(dmax, command):
    settings = yaml.safe_load(dmax(f"{command} --print_config").out)
    assert settings.keys() <= SETTINGS

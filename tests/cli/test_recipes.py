import pytest
import yaml

from dmaxlit.cli.base_configs import expand_bases
from dmaxlit.cli.recipes import RECIPES, recipe_names


def settings(dmax, flags):
    return yaml.safe_load(dmax(f"fit {flags} --print_config").out)


@pytest.mark.parametrize("name", ["builtin:control", "builtin:control.yaml"])
def test_a_recipe_runs_by_name_in_any_folder(dmax, name):
    assert settings(dmax, f"--config {name}") == settings(dmax, f"--config={RECIPES / 'control.yaml'}")


def test_its_bases_come_before_it():
    base, recipe = str(RECIPES / "quickstart.yaml"), str(RECIPES / "control.yaml")
    expected = ["--config", base, "--config", recipe]
    assert expand_bases(["--config", "builtin:control"]) == expand_bases(["--config=builtin:control"]) == expected


def test_a_user_s_recipe_may_start_from_one(dmax, tmp_path):
    (tmp_path / "mine.yaml").write_text("config: builtin:control\ntrainer: {default_root_dir: runs/mine}\n")
    mine, theirs = (settings(dmax, f"--config {name}") for name in ("mine.yaml", "builtin:control"))
    assert mine["trainer"].pop("default_root_dir") == "runs/mine"
    del theirs["trainer"]["default_root_dir"]
    assert mine == theirs


def test_an_unknown_recipe_is_refused_with_the_known_ones(dmax, tmp_path):
    refusal = dmax("fit --config builtin:quikstart").refusal
    start = (
        "config: unknown built-in recipe 'builtin:quikstart' (did you mean builtin:quickstart?); known: builtin:adapt"
    )
    assert refusal.startswith(start)
    (tmp_path / "mine.yaml").write_text("config: builtin:gone\nmodel: {seed: 1}\n")
    assert dmax("fit --config mine.yaml").refusal.startswith("config: unknown built-in recipe 'builtin:gone'")


def test_all_shipped_recipes_have_names():
    assert "builtin:quickstart" in recipe_names()
    assert "builtin:dense_0.6b_oput" in recipe_names()

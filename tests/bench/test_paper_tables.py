import json
from pathlib import Path

import pytest
import yaml

from dmaxlit.bench.paper_tables import BASE, TABLE_METHODS, TABLES, WORDINGS
from dmaxlit.tasks import task

CONFIGS = Path(__file__).parents[2] / "configs"
ROWS = [row for table in TABLES.values() for row in table.rows]


def recipe(name):
    return yaml.safe_load((CONFIGS / name).read_text())


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_one_token_at_a_time_the_base_and_the_control_each_row_once(name):
    table = TABLES[name]
    keys = [(method, spec.title) for method, spec in table.rows]
    assert keys[:2] == [("base", "one token per forward"), ("base", "threshold 0.95")]
    assert "control" in dict(keys)
    assert len(set(keys)) == len(keys)
    assert table.reference in table.rows
    assert {method for method, _ in table.rows} <= {"base", *TABLE_METHODS}


def test_every_method_is_in_a_table():
    assert {method for method, _ in ROWS} == {"base", *TABLE_METHODS}
    assert BASE in ROWS


def test_a_title_stands_for_the_same_decoder_in_all_tables():
    identities = {(spec.title, json.dumps(spec.identity())) for _, spec in ROWS}
    assert len({title for title, _ in identities}) == len({identity for _, identity in identities}) == len(identities)


def test_the_rules_of_stopping_and_the_steps_of_the_ablation_differ_by_one_option_each():
    stopping = {spec.title: spec.options for method, spec in TABLES["stopping"].rows if method == "on_policy"}
    assert stopping["SPD 0.5, consistency only"] == {**stopping["SPD 0.5"], "stop_on_confidence": False}
    assert stopping["SPD 0, confidence only"] == {**stopping["SPD 0"], "stop_on_consistency": False}
    ablation = {spec.title: spec.options for method, spec in TABLES["ablation"].rows if method == "on_policy"}
    hard = {**ablation["SPD 0.95"], "soft": False}
    assert ablation["hard tokens 0.95"] == hard
    assert ablation["hard tokens 0.95, not contiguous"] == {**hard, "contiguous": False}


def test_all_methods_take_steps_of_the_same_cost():
    steps = recipe("quickstart.yaml")["trainer"]["max_steps"]
    for name, method in TABLE_METHODS.items():
        if method.recipe is not None and name != "alternating":  # whose recipe has as many steps, which cost less
            assert method.share == recipe(method.recipe).get("trainer", {}).get("max_steps", steps) / steps
    passes = (2 + 2 + 1 / 3) / 2  # a forward is a third of a pass
    assert TABLE_METHODS["alternating"].share == pytest.approx(3 / passes, abs=0.02)


@pytest.mark.parametrize("name", WORDINGS)
def test_the_recipe_of_a_task_says_what_the_tables_need_of_it(name):
    settings = recipe(f"{name}.yaml")
    assert settings["data"]["task"] == name
    assert settings["trainer"]["max_steps"] == settings["model"]["lr_scheduler"]["init_args"]["T_max"]
    assert settings["model"]["noise"]["init_args"]["level"] == [0.5, 1.0]
    for options in WORDINGS[name].values():
        made = task(name, **settings["data"]["task_options"] | options)
        assert made.options().items() >= options.items()

import os
import re
from pathlib import Path

import pytest

import dmaxlit.bench
from dmaxlit import UserError
from dmaxlit.bench.command import fit, recipe_value, run_dmaxlit


@pytest.fixture
def interpreter(tmp_path, replace_python):
    """Replace Python by a script that reports its arguments and environment, and fails when asked to."""
    replace_python(
        f'printf "%s\\n" "$@" "$OMP_NUM_THREADS" > {tmp_path}/arguments\n'
        'for last; do :; done\n[ "$last" = fail ] || exit 0\necho "a warning" >&2\necho "error: bad luck" >&2\nexit 2\n'
    )
    return lambda: (tmp_path / "arguments").read_text().split()


def test_the_process_gets_arguments_and_environment(interpreter, monkeypatch):
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "7")
    run_dmaxlit("list", "--kind", "noise")
    assert interpreter() == ["-m", "dmaxlit", "list", "--kind", "noise", "7"]


def test_an_error_surfaces_as_one_line_and_output_is_passed_through(interpreter, capsys):
    with pytest.raises(UserError) as refusal:
        run_dmaxlit("fit", "fail")
    assert str(refusal.value) == "fit failed with exit status 2: bad luck"
    assert capsys.readouterr().err == "a warning\nerror: bad luck\n"


def test_options_of_a_fit_override_those_that_all_fits_have(interpreter, tmp_path):
    checkpoint = fit(tmp_path / "recipe.yaml", tmp_path / "run", 3, "--trainer.callbacks=[]", "--trainer.devices=2")
    arguments = interpreter()
    assert checkpoint == tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert arguments[:3] == ["-m", "dmaxlit", "fit"]
    assert {"--seed_everything=3", f"--config={tmp_path}/recipe.yaml"} <= set(arguments)
    assert arguments.index("--trainer.callbacks=null") < arguments.index("--trainer.callbacks=[]")
    assert arguments.index("--trainer.devices=1") < arguments.index("--trainer.devices=2")


@pytest.mark.slow
def test_the_real_command_refuses_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^fit failed with exit status 2: .*recipe\.yaml"):
        fit(tmp_path / "recipe.yaml", tmp_path / "run", 0)


def test_what_a_recipe_itself_sets_is_read(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("config: other.yaml\ntrainer: {max_steps: 3}\n")
    assert recipe_value(recipe, "trainer.max_steps") == 3
    for name in ("trainer.devices", "model", "trainer.max_steps.x"):
        with pytest.raises(UserError, match=f"^configs: expected {name} in .*recipe.yaml, found none$"):
            recipe_value(recipe, name)
    for content in (b"a: [", b"[" * 200, b"\xff", b"a: 2026-13-01"):
        recipe.write_bytes(content)
        with pytest.raises(UserError, match=r"^configs: cannot read '.*recipe.yaml' \(.*\w.*\)$"):
            recipe_value(recipe, "trainer.max_steps")


@pytest.mark.parametrize("path", sorted(Path(dmaxlit.bench.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_no_benchmark_imports_the_command_line(path):
    assert not re.search(r"(from|import) dmaxlit\.cli", path.read_text(encoding="utf-8"))

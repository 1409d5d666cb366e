import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_package_list_is_the_folders():
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "dmaxlit").rglob("__init__.py")
        if "callbacks" not in path.parts
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {"dmaxlit.callbacks"}


@pytest.mark.parametrize("name", ["callbacks", "configs"])
def test_top_level_folders_are_in_the_package_by_a_committed_relative_link(name):
    link = ROOT / "dmaxlit" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def test_callbacks_import_absolutely():
    for path in (ROOT / "callbacks").glob("*.py"):
        assert "from ." not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    "name", ["torch", "lightning", "transformers", "jsonargparse", "huggingface-hub", "tensorboard"]
)
def test_what_is_used_beyond_its_promises_stays_below_the_first_untested_minor(name):
    (line,) = [line for line in PROJECT["project"]["dependencies"] if re.match(rf"{name}\b", line)]
    assert re.search(r",<\d+\.\d+$", line)


def test_extras_are_installed_from_the_checkout():
    """An index of packages would give a project of somebody else that has our name."""
    named = set()
    for top in ("callbacks", "configs", "dmaxlit", "CONTRIBUTING.md", "README.md"):
        paths = [ROOT / top] if (ROOT / top).is_file() else sorted((ROOT / top).rglob("*.*"))
        for path in (path for path in paths if path.suffix in (".md", ".py", ".yaml")):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"pip install\s+(-e )?'?dmaxlit", text), path
            named |= set(re.findall(r"pip install -e '\.\[([\w-]+)\]'", text))
    assert named <= PROJECT["project"]["optional-dependencies"].keys()


@pytest.fixture
def source(tmp_path):
    """Copy what a wheel is built of, so that the checkout gets no build folder."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("dmaxlit", "callbacks", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    return source


@pytest.mark.slow
def test_a_wheel_holds_everything_and_works_elsewhere(tmp_path, source):
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    files = {  # links into the package followed
        os.path.relpath(os.path.join(folder, file), source)
        for folder, _, files in os.walk(source / "dmaxlit", followlinks=True)
        for file in files
    }
    texts = (".md", ".svg")
    assert {name for name in names if not name.endswith(texts) and ".dist-info/" not in name} == {
        name for name in files if not name.endswith(texts)
    }

    # Installed where this environment's libraries can be seen, but the checkout cannot.
    target = tmp_path / "env"
    venv.create(target, with_pip=False)
    site = next(target.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    code = (
        "import dmaxlit, dmaxlit.callbacks as c, pathlib; m = dmaxlit.load('builtin:chain-base');"
        f"assert pathlib.Path(c.__file__).is_relative_to({str(site)!r}), c.__file__;"
        "e = dmaxlit.task(m.task_name).examples('test', 4);"
        "g = m.generate([x.prompt for x in e], decoder='threshold', max_new_tokens=96);"
        "print(sum(x.check(y.text) for x, y in zip(e, g)))"
    )
    done = subprocess.run(
        [target / "bin" / "python", "-I", "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 3

    fit = "from dmaxlit.cli import main; main(['fit', '--config', 'builtin:control', '--print_config'])"
    done = subprocess.run(
        [target / "bin" / "python", "-I", "-W", "ignore", "-c", fit],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "default_root_dir: runs/control" in done.stdout


EDITABLE = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
USER_FILE = """
from dmaxlit.callbacks import SPDValidation
from dmaxlit.tasks import ChainTask

wrong: int = ChainTask("hard")
reveal_type(SPDValidation(batch_size=3))
"""


@pytest.mark.slow
def test_type_checkers_see_an_editable_install(tmp_path, source):
    done = subprocess.run(
        [sys.executable, "-c", EDITABLE, str(tmp_path)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    (packages,) = (tmp_path / "env").glob("lib/*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    (tmp_path / "user.py").write_text(USER_FILE)
    python = tmp_path / "env" / "bin" / "python"
    check = [sys.executable, "-m", "mypy", "--python-executable", str(python), "--follow-imports", "silent", "user.py"]
    checked = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert 'expression has type "ChainTask", variable has type "int"' in checked.stdout, checked.stdout
    assert 'Revealed type is "dmaxlit.callbacks.spd_validation.SPDValidation"' in checked.stdout
    assert "import-" not in checked.stdout

"""The working folder of a process."""

import os
import tempfile

import pytest

from dmaxlit.sandbox.children import scratch_folder


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_of_any_depth_is_removed(temporary):
    before = os.getcwd()
    with scratch_folder() as folder:
        try:
            os.chdir(folder)
            for _ in range(1500):  # deeper than recursion goes, and than a path is long
                os.mkdir("nested")
                os.chdir("nested")
        finally:
            os.chdir(before)
    assert not list(temporary.iterdir())


def test_links_are_removed_and_not_followed(temporary, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept").write_text("")
    with scratch_folder() as folder:
        os.symlink(outside, os.path.join(folder, "link"))
        os.mkdir(os.path.join(folder, "locked"))
        os.chmod(os.path.join(folder, "locked"), 0)
    assert not list(temporary.iterdir())
    assert (outside / "kept").exists()

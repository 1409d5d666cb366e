import pytest

from dmaxlit import UserError
from dmaxlit.checkpoints import temporary_model as temporary
from dmaxlit.checkpoints.temporary_model import temporary_model
from tests.lock_holder import held_by_another

ABANDONED, HELD = ".dmaxlit-0123456789abcdef", ".dmaxlit-fedcba9876543210"


@pytest.fixture(autouse=True)
def _copies_nothing(monkeypatch):
    def write(checkpoint, folder):
        folder.mkdir()
        (folder / "weights").write_text(str(checkpoint))

    monkeypatch.setattr(temporary, "checkpoint_to_folder", write)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_nothing_stays(tmp_path, error):
    def use():
        with temporary_model("a.ckpt", tmp_path) as folder:
            assert (folder / "weights").read_text() == "a.ckpt"
            assert folder.parent.stat().st_mode & 0o777 == 0o700
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert names(tmp_path) == []


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    for name in (ABANDONED, HELD, ".dmaxlit-notes", "dmaxlit-0123456789abcdef"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / ".dmaxlit-00000000000000aa").symlink_to(tmp_path / ".dmaxlit-notes")
    with held_by_another(tmp_path / HELD), temporary_model("a.ckpt", tmp_path):
        pass
    assert names(tmp_path) == sorted([HELD, ".dmaxlit-notes", "dmaxlit-0123456789abcdef"])
    assert names(tmp_path / ".dmaxlit-notes") == ["file"]


def test_a_system_without_user_ids_needs_none(tmp_path, monkeypatch):
    monkeypatch.delattr("os.getuid")
    (tmp_path / ABANDONED).mkdir()
    with temporary_model("a.ckpt", tmp_path) as folder:
        assert (folder / "weights").exists()


def test_the_default_is_the_systems_folder_and_a_missing_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_model("a.ckpt") as folder:
        assert folder.parent.parent == tmp_path
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="checkpoint: cannot write"), temporary_model("a.ckpt", tmp_path / "file"):
        pass

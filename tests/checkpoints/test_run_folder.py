"""Links in a folder of checkpoints."""

import pytest

from dmaxlit import UserError
from dmaxlit.checkpoints.run_folder import refuse_links


@pytest.fixture
def folder(tmp_path):
    """Make a folder of checkpoints that is reached through a link."""
    (tmp_path / "large").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "large")
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("name", ["last.ckpt", ".next.ckpt", "step=2.ckpt"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_to_another_folder_is_refused(folder, tmp_path, name, exists):
    if exists:
        (tmp_path / "victim").mkdir()
    (folder / name).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=rf"^checkpoint: expected no link to another folder .*large/{name}$"):
        refuse_links(folder)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "meta.pt"])
def test_a_link_inside_a_sharded_checkpoint_is_refused(folder, tmp_path, name):
    (folder / "step=2.ckpt").mkdir()
    (folder / "step=2.ckpt" / name).symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=rf"step=2.ckpt/{name}$"):
        refuse_links(folder)


def test_checkpoints_may_be_links_to_each_other_and_the_folder_may_be_missing(folder):
    (folder / "step=2.ckpt").write_text("")
    (folder / "last.ckpt").symlink_to("step=2.ckpt")
    refuse_links(folder)
    refuse_links(folder / "missing")

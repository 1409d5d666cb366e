import io
import json
import os
import pickle
import re
from enum import Enum

import lightning as L
import pytest
import torch
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING as MEM_FORMAT_ENCODING

from dmaxlit import DMaxModule, UserError, load
from dmaxlit.checkpoints.sharded import _Unpickler, check_shards
from dmaxlit.training.fsdp import FSDP2Strategy
from tests.conftest import make_denoiser
from tests.one_process_fsdp import fit
from tests.test_module import QUIET, loader, sgd

pytestmark = [
    pytest.mark.usefixtures("no_group_is_left"),
    pytest.mark.filterwarnings(
        "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*destroy_process_group", "ignore:.*barrier"
    ),
]


class ByAttribute:
    """Pickled as early releases of Python 3.11 pickle the members of an enum."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


class Foreign(Enum):
    NAME = 1


def read(value):
    return _Unpickler(io.BytesIO(pickle.dumps(value))).load()


def test_members_of_an_enum_are_read_however_python_wrote_them():
    member = MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT
    assert read(member) is member
    assert read(ByAttribute(MEM_FORMAT_ENCODING, member.name)) is member


@pytest.mark.parametrize(
    "value",
    [
        os.system,
        ByAttribute(Foreign, "NAME"),
        ByAttribute(MEM_FORMAT_ENCODING, "mro"),
        ByAttribute("text", "format"),
    ],
)
def test_nothing_else_is_found_by_attribute(value):
    with pytest.raises(pickle.UnpicklingError, match="it names "):
        read(value)


@pytest.fixture
def checkpoint(tmp_path):
    module = DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd)
    fit(module).save_checkpoint(tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def test_parts_that_would_run_code_are_refused(checkpoint):
    class Evil:
        def __reduce__(self):
            return (json.dumps, ("x",))

    (checkpoint / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"cannot be read.*it names json.dumps") as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".metadata", "meta.pt", "__0_0.distcp"])
def test_damaged_parts_are_refused(checkpoint, name):
    (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:40])
    with pytest.raises(UserError, match="checkpoint: ") as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)


def test_a_folder_that_lacks_a_part_or_some_of_it_is_noticed_without_reading_it(checkpoint):
    part = checkpoint / "__0_0.distcp"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"may be damaged \(__0_0.distcp: expected \d+ bytes, got \d+\)"):
        check_shards(checkpoint)
    part.unlink()
    with pytest.raises(UserError, match=r"may be damaged \(.*No such file.*__0_0.distcp"):
        check_shards(checkpoint)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_byte_that_has_changed_is_refused_by_the_name_of_its_part(checkpoint, name):
    check_shards(checkpoint, contents=True)
    content = bytearray((checkpoint / name).read_bytes())
    if name == ".metadata":
        content.append(0)  # behind the pickle, where nobody reads it
    else:
        content[-1] ^= 1
    (checkpoint / name).write_bytes(content)
    refusal = rf"x\.ckpt' cannot be read, it may be damaged \(wrong checksum of {re.escape(name)}\)$"
    with pytest.raises(UserError, match=refusal):
        load(checkpoint)
    with pytest.raises(UserError, match=refusal):
        L.Trainer(**{**QUIET, "max_steps": 3, "strategy": FSDP2Strategy(), "devices": 1}).fit(
            DMaxModule(make_denoiser(sharpen=3.0), optimizer=sgd), loader(), ckpt_path=checkpoint
        )


def test_a_checkpoint_in_the_home_folder_is_read(checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    read = DMaxModule.load_from_checkpoint("~/x.ckpt").state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in load(checkpoint).state_dict().items())


def test_parts_of_earlier_versions_have_no_checksums(checkpoint):
    (checkpoint / "checksums.json").unlink()
    check_shards(checkpoint, contents=True)
    load(checkpoint)


@pytest.mark.parametrize("content", ["{", "[1]", '{"../x": "00"}'])
def test_damaged_checksums_are_refused(checkpoint, content):
    (checkpoint / "checksums.json").write_text(content)
    with pytest.raises(UserError, match="may be damaged"):
        load(checkpoint)

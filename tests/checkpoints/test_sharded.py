import io
import os
import pickle
from enum import Enum

import pytest
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING as MEM_FORMAT_ENCODING

from dmaxlit.checkpoints.sharded import _Unpickler


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

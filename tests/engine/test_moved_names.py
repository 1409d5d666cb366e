"""What used to be in dmaxlit.decoding is still there, for one release, and says where it is now."""

import subprocess
import sys

import pytest

import dmaxlit.decoding
import dmaxlit.engine

MOVED = {
    "BlockDecoder": "BlockDecoder",
    "DecodedRow": "DecodedSequence",
    "Draft": "Draft",
    "ForwardEvent": "ForwardEvent",
    "Generation": "Generation",
    "RowTrace": "RowTrace",
    "Sampler": "Sampler",
    "TokenState": "TokenState",
    "Trace": "Trace",
    "drafts": "drafts",
}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_the_engine_s_names_are_found_with_a_warning(old, new):
    with pytest.warns(DeprecationWarning, match=f"dmaxlit.decoding.{old} is now dmaxlit.engine.{new}$"):
        assert getattr(dmaxlit.decoding, old) is getattr(dmaxlit.engine, new)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match=r"module 'dmaxlit\.decoding' has no attribute 'Nothing'"):
        dmaxlit.decoding.Nothing  # noqa: B018


def test_decoders_are_imported_without_the_engine():
    code = "import sys, dmaxlit.decoding; print([n for n in sys.modules if n.startswith('dmaxlit.engine')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

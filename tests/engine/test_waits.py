"""The host does not wait for the device in order to send it something."""

import pytest

from dmaxlit.decoding import make_decoder
from dmaxlit.engine import BlockDecoder, Sampler
from tests.engine.models import lively_denoiser, make_prompts
from tests.waits import Uploads


@pytest.mark.parametrize("settings", [{}, {"window": 2}, {"compile": True}, {"use_cache": False}])
def test_no_upload_waits(settings):
    denoiser = lively_denoiser()
    denoiser.__dict__["compiled_hidden"] = denoiser.hidden
    engine = BlockDecoder(denoiser, make_decoder("spd"), batch_size=3, sampler=Sampler(0.5), **settings)
    with Uploads() as uploads:
        engine.decode(make_prompts((3, 25, 8, 39, 17)), 24)
    assert len(uploads.seen) > 20
    assert all(uploads.seen)

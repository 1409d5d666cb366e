import pytest

import dmaxlit
from dmaxlit.cli.chat.frames import frames
from dmaxlit.engine import DecodeSettings, TokenState, Trace

PROMPT = "3 +1 ?"


def decoded(module, settings, trace=None):
    engine = settings.make_engine(module.backbone)
    trace = Trace() if trace is None else trace
    return list(frames(engine, module.encode_prompt(PROMPT), settings.max_new_tokens, PROMPT, trace))


def shown(frame):
    return frame.committed + "".join(cell.text for cell in frame.cells)


@pytest.mark.parametrize("decoder", ["threshold", "spd", "edit"])
@pytest.mark.parametrize("window", [1, 3])
def test_a_frame_shows_what_a_draft_of_the_stream_says(module, decoder, window):
    settings = DecodeSettings(decoder, max_new_tokens=40, window=window)
    seen = decoded(module, settings)
    drafts = list(module.stream(PROMPT, decoder, max_new_tokens=40, window=window))
    assert len(seen) == len(drafts)
    for frame, draft in zip(seen, drafts, strict=True):
        assert (frame.committed, frame.num_forwards) == (draft.committed, draft.num_forwards)
        assert frame.generation == draft.generation
        assert shown(frame).split() == f"{draft.committed} {draft.provisional}".split()


def test_masks_fill_and_replaced_tokens_are_marked():
    module = dmaxlit.load("builtin:chain-base", probe=False)  # which revises, unlike an untrained model
    settings, trace = DecodeSettings("spd", max_new_tokens=32), Trace()
    seen = decoded(module, settings, trace)
    masks = [sum(cell.state == TokenState.MASKED for cell in frame.cells) for frame in seen[:-1]]
    assert masks[0] > masks[-1]
    ids = trace.rows[0].timeline()[0].tolist()
    for before, after, frame in zip(ids, ids[1:-1], seen[1:-1], strict=False):
        replaced = [old != new and old >= 0 and new >= 0 for old, new in zip(before, after, strict=True)]
        # In the first block, cells and tokens of the response are the same, up to EOS.
        cells = [cell for cell in frame.cells if cell.state != TokenState.COMMITTED]
        if not frame.num_committed:
            assert [cell.changed for cell in cells] == replaced[: len(cells)]
    assert any(cell.changed for frame in seen for cell in frame.cells)
    assert seen[-1].cells == ()
    assert seen[-1].num_tokens == seen[-1].num_committed == seen[-1].generation.num_tokens

import pytest
import torch
from safetensors.torch import save_file

from dmaxlit import UserError
from dmaxlit.decoding import DECODERS, SPDDecoder, make_decoder
from dmaxlit.engine import BlockDecoder, RowTrace, TokenState, Trace
from tests.engine.models import lively_denoiser, make_prompts

PROMPTS = make_prompts((3, 8, 25, 0, 17))
BUDGET = 20


@pytest.fixture(scope="module")
def denoiser():
    return lively_denoiser()


def traced(denoiser, decoder, **options):
    trace = Trace()
    rows = BlockDecoder(denoiser, decoder, **options).decode(PROMPTS, BUDGET, trace=trace)
    return rows, trace


def hand_made():
    """Two blocks of four; the first begins with two prompt tokens, and the last token is beyond the response."""
    prompt, masked, soft, token, committed = TokenState
    return RowTrace(
        start=torch.tensor([4, 4, 4, 8, 8]),
        ids=torch.tensor([[7, 7, 1, 9], [7, 7, 1, 2], [7, 7, 3, 2], [4, 9, 9, 9], [4, 5, 6, 6]], dtype=torch.int32),
        confidence=torch.rand(5, 4).half(),
        state=torch.tensor(
            [
                [prompt, prompt, soft, masked],
                [prompt, prompt, token, token],
                [prompt, prompt, committed, committed],
                [token, masked, masked, masked],
                [committed, committed, committed, committed],
            ],
            dtype=torch.uint8,
        ),
        num_tokens=5,
    )


def test_timeline_and_finalization_by_hand():
    row = hand_made()
    ids, confidence = row.timeline()
    assert ids.tolist() == [
        [1, -1, -1, -1, -1],
        [1, 2, -1, -1, -1],
        [3, 2, -1, -1, -1],
        [3, 2, 4, -1, -1],
        [3, 2, 4, 5, 6],
    ]
    assert row.finalized().tolist() == [3, 2, 4, 5, 5]
    assert row.block_of().tolist() == [0, 0, 1, 1, 1]
    assert row.forwards_per_block().tolist() == [3, 2]
    known = ~confidence.isnan()
    assert known.tolist() == [[True] * 2 + [False] * 3] * 3 + [[False] * 2 + [True] * 3] * 2
    assert torch.equal(confidence[0, :2], row.confidence[0, 2:].float())


@pytest.mark.parametrize("name", list(DECODERS))
def test_tracing_changes_nothing_and_the_trace_tells_the_same_story(denoiser, name):
    decoder = make_decoder(name)
    plain = BlockDecoder(denoiser, decoder).decode(PROMPTS, BUDGET)
    rows, trace = traced(denoiser, decoder, batch_size=2)
    assert rows == plain
    assert sorted(trace.rows) == list(range(len(PROMPTS)))
    for index, row in enumerate(rows):
        record = trace.rows[index]
        assert record.num_tokens == row.num_tokens
        assert len(record.start) == row.num_forwards == record.forwards_per_block().sum()
        ids, _ = record.timeline()
        assert ids[-1].tolist() == row.token_ids
        finalized = record.finalized()
        assert ((finalized >= 1) & (finalized <= row.num_forwards)).all()
        for position, at in enumerate(finalized.tolist()):
            assert (ids[at - 1 :, position] == row.token_ids[position]).all()
            assert at == 1 or ids[at - 2, position] != row.token_ids[position]


def test_states_and_confidences_are_the_decoder_s(denoiser):
    _, trace = traced(denoiser, SPDDecoder())
    for record in trace.rows.values():
        assert ((record.confidence >= 0) & (record.confidence <= 1)).all()
        closing = record.start.diff(append=torch.tensor([-1])) != 0
        for at in range(len(record.start)):
            kinds = set(record.state[at].tolist()) - {TokenState.PROMPT}
            allowed = {TokenState.COMMITTED} if closing[at] else {TokenState.MASKED, TokenState.SOFT}
            assert kinds <= allowed
    _, hard = traced(denoiser, SPDDecoder(soft=False))
    kinds = {kind for record in hard.rows.values() for kind in record.state.unique().tolist()}
    assert TokenState.TOKEN in kinds
    assert TokenState.SOFT not in kinds


def test_a_trace_is_read_as_it_was_written(denoiser, tmp_path):
    _, trace = traced(denoiser, SPDDecoder())
    path = tmp_path / "deep" / "trace.safetensors"
    trace.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["trace.safetensors"]
    again = Trace.load(path)
    assert again.rows.keys() == trace.rows.keys()
    for index, row in trace.rows.items():
        for name in ("start", "ids", "confidence", "state"):
            assert torch.equal(getattr(again.rows[index], name), getattr(row, name))
        assert again.rows[index].num_tokens == row.num_tokens


def test_an_empty_trace_is_written_too(tmp_path):
    Trace().save(tmp_path / "none")
    assert Trace.load(tmp_path / "none").rows == {}


def test_files_that_hold_no_trace_are_refused(tmp_path):
    with pytest.raises(UserError, match="trace: cannot read"):
        Trace.load(tmp_path / "missing")
    (tmp_path / "text").write_text("no tensors here")
    with pytest.raises(UserError, match="trace: cannot read"):
        Trace.load(tmp_path / "text")
    save_file({"ids": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(UserError, match="trace: expected a file that dmaxlit's Trace has written"):
        Trace.load(tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="trace: cannot write"):
        Trace().save(tmp_path / "file" / "below")


def test_a_trace_shows_its_counts():
    row = hand_made()
    assert repr(row) == f"RowTrace(num_tokens={row.num_tokens}, num_forwards=5, num_blocks=2, block_length=4)"
    assert repr(Trace({0: row, 3: row})) == "Trace(2 prompts, 10 forwards)"
    assert repr(Trace()) == "Trace(0 prompts, 0 forwards)"

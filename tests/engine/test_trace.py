import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dmaxlit import DMaxModule, UserError
from dmaxlit.decoding import DECODERS, SPDDecoder, make_decoder
from dmaxlit.engine import BlockDecoder, RowTrace, TokenState, Trace
from tests.engine.models import lively_denoiser, make_prompts
from tests.engine.traces import hand_made

PROMPTS = make_prompts((3, 8, 25, 0, 17))
BUDGET = 20


@pytest.fixture(scope="module")
def denoiser():
    return lively_denoiser()


def traced(denoiser, decoder, **options):
    trace = Trace()
    rows = BlockDecoder(denoiser, decoder, **options).decode(PROMPTS, BUDGET, trace=trace)
    return rows, trace


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
        record.check()
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


def test_a_call_after_one_that_was_interrupted_is_recorded_alone(denoiser):
    def interrupt(finished):
        raise KeyboardInterrupt

    trace, engine = Trace(), BlockDecoder(denoiser, SPDDecoder())
    with pytest.raises(KeyboardInterrupt):
        engine.decode(PROMPTS, BUDGET, progress=interrupt, trace=trace)
    rows = engine.decode(PROMPTS, BUDGET, trace=trace)
    assert [trace.rows[index].num_forwards for index in range(len(rows))] == [row.num_forwards for row in rows]


def test_a_call_that_fails_at_once_leaves_a_trace_as_it_was(denoiser):
    module, trace = DMaxModule(denoiser), Trace()
    module.generate(["7 +1 ?"], max_new_tokens=8, trace=trace)
    before = dict(trace.prompts), trace.label
    with pytest.raises(UserError):
        module.generate(["3 ?"], decoder="threshold", max_new_tokens=0, trace=trace)
    assert (trace.prompts, trace.label) == before


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


@pytest.mark.parametrize(
    ("rows", "tensors"),
    [
        (None, {}),
        ("{", {}),
        ("[]", {}),
        ('{"forwards": [5]}', {}),
        ({"index": [0, 1]}, {}),
        ({"tokens": []}, {}),
        ({"forwards": [4]}, {}),
        ({"texts": [3]}, {}),
        ({}, {"ids": None}),
        ({}, {"other": torch.zeros(5)}),
        ({"index": ["a"]}, {}),
        ({"index": [-1]}, {}),
        ({"tokens": [-1]}, {}),
        ({"tokens": [2.0]}, {}),
        ({"tokens": [7]}, {}),  # two blocks of four, of which two tokens are the prompt's
        ({"tokens": [10**9]}, {}),
        ({"forwards": [True] * 5}, {}),
        ({"prompts": [[0, None]]}, {}),
        ({"prompts": [["0", "a"]]}, {}),
        ({"texts": [[1, 2]]}, {}),
        ({"label": 3}, {}),
        ({}, {"start": torch.tensor([4, 4, 4, 800, 800])}),
        ({}, {"start": torch.full((5,), 2**62)}),
        ({}, {"start": torch.full((5,), 4.0)}),
        ({}, {"forward": torch.tensor([0, 1, 2, 3, 10**9])}),
        ({}, {"ids": torch.full((5, 4), -7, dtype=torch.int32)}),
        ({}, {"ids": torch.zeros(5, 4)}),
        ({}, {"ids": torch.zeros(5, dtype=torch.int32)}),
        ({}, {"state": torch.full((5, 4), 7, dtype=torch.uint8)}),
        ({}, {"confidence": torch.zeros(5, 3).half()}),
        ({}, {"confidence": torch.zeros(5, 4, dtype=torch.int32)}),
    ],
)
def test_a_damaged_trace_is_refused_in_one_line(tmp_path, rows, tensors):
    path = tmp_path / "t.safetensors"
    Trace({0: hand_made()}).save(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    stored = {name: tensor for name, tensor in {**load_file(path), **tensors}.items() if tensor is not None}
    if isinstance(rows, dict):
        rows = json.dumps({**json.loads(header["rows"]), **rows})
    del header["rows"]
    save_file(stored, path, metadata=header | ({} if rows is None else {"rows": rows}))
    with pytest.raises(UserError, match=r"^trace: '.*' is damaged \(.+\)$"):
        Trace.load(path)


def test_records_of_different_block_lengths_are_not_written(tmp_path):
    row = hand_made()
    wide = RowTrace(row.start, *(tensor.repeat(1, 2) for tensor in (row.ids, row.confidence, row.state)), num_tokens=5)
    with pytest.raises(UserError, match="trace: expected records of one block length, got 4, 8"):
        Trace({0: row, 1: wide}).save(tmp_path / "t")


def test_a_trace_shows_its_counts():
    row = hand_made()
    assert repr(row) == f"RowTrace(num_tokens={row.num_tokens}, num_forwards=5, num_blocks=2, block_length=4)"
    assert repr(Trace({0: row, 3: row})) == "Trace(2 prompts, 10 forwards)"
    assert repr(Trace()) == "Trace(0 prompts, 0 forwards)"


def test_a_recording_has_the_state_of_every_token_after_every_forward_by_hand():
    recording = hand_made().recording("2 + 2 ?")
    _, masked, soft, token, committed = TokenState
    closed = 0
    assert recording.state.tolist() == [
        [soft, masked, closed, closed, closed],
        [token, token, closed, closed, closed],
        [committed, committed, closed, closed, closed],
        [committed, committed, token, masked, masked],
        [committed] * 5,
    ]
    assert recording.ids.tolist() == hand_made().timeline()[0].tolist()
    assert [recording.prompt, recording.forwards_per_block, recording.block.tolist()] == [
        "2 + 2 ?",
        [3, 2],
        [0, 0, 1, 1, 1],
    ]
    assert recording.finalized.tolist() == [3, 2, 4, 5, 5]


def test_a_recording_of_a_window_has_the_states_of_several_blocks_at_once():
    masked, token, committed = TokenState.MASKED, TokenState.TOKEN, TokenState.COMMITTED
    row = RowTrace(
        start=torch.tensor([0, 0, 2, 0, 2, 2]),
        ids=torch.tensor([[1, 9], [1, 2], [9, 3], [1, 2], [9, 4], [5, 4]], dtype=torch.int32),
        confidence=torch.full((6, 2), 0.5).half(),
        state=torch.tensor(
            [[token, masked], [token] * 2, [masked, token], [committed] * 2, [masked, token], [committed] * 2],
            dtype=torch.uint8,
        ),
        num_tokens=4,
        forward=torch.tensor([0, 1, 1, 2, 2, 3]),
    )
    recording = row.recording()
    assert recording.state.tolist() == [
        [token, masked, 0, 0],
        [token, token, masked, token],
        [committed, committed, masked, token],
        [committed] * 4,
    ]
    assert recording.ids.tolist() == [[1, -1, -1, -1], [1, 2, -1, 3], [1, 2, -1, 4], [1, 2, 5, 4]]
    assert recording.forwards_per_block == [3, 3]


def test_a_record_too_large_for_a_browser_is_refused_before_its_timeline_is_computed(monkeypatch):
    monkeypatch.setattr("dmaxlit.viewer.recording.MAX_CELLS", 24)
    monkeypatch.setattr(RowTrace, "timeline", lambda self: pytest.fail("computed"))
    with pytest.raises(UserError, match=r"^trace: expected tokens x forwards of a prompt .* 24, got 5 x 5$"):
        hand_made().recording()


def test_the_tokens_of_a_block_that_was_dropped_end_with_it():
    masked, token, committed = TokenState.MASKED, TokenState.TOKEN, TokenState.COMMITTED
    row = RowTrace(
        start=torch.tensor([0, 2, 0, 0, 2, 2]),
        ids=torch.tensor([[1, 8], [3, 4], [1, 2], [1, 2], [3, 9], [3, 4]], dtype=torch.int32),
        confidence=torch.full((6, 2), 0.5).half(),
        state=torch.tensor([[token] * 2] * 3 + [[committed] * 2, [token, masked], [committed] * 2], dtype=torch.uint8),
        num_tokens=4,
        forward=torch.tensor([0, 0, 1, 2, 2, 3]),
    )
    assert row.timeline()[0].tolist() == [[1, 8, 3, 4], [1, 2, -1, -1], [1, 2, 3, -1], [1, 2, 3, 4]]
    assert row.finalized().tolist() == [1, 2, 3, 4]
    assert row.recording().state[1].tolist() == [token, token, 0, 0]


class Letters:
    """A tokenizer whose token 1 is b, and so on."""

    def decode(self, ids):
        return "".join(chr(97 + token) for token in ids)


@pytest.mark.parametrize("decoder", ["spd", "edit"])
def test_a_page_has_the_texts_of_all_tokens_that_were_ever_shown(denoiser, decoder):
    _, trace = traced(denoiser, make_decoder(decoder))
    with pytest.raises(UserError, match="tokenizer: expected the tokenizer of a trace that holds no texts"):
        trace.to_html()
    trace.to_html(tokenizer=Letters())
    ever = {token for row in trace.rows.values() for token in row.timeline()[0].unique().tolist()} - {-1}
    assert {token: trace.texts.get(token) for token in ever} == {token: chr(97 + token) for token in ever}
    panel = trace.panel([2])
    assert list(panel.recordings) == [2]
    assert panel.recordings[2].state[-1].unique().tolist() == [TokenState.COMMITTED]


def test_a_trace_keeps_prompts_texts_and_label_in_its_file(tmp_path):
    trace = Trace({3: hand_made()})
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "a"}, "b"]}]
    trace.describe(Letters(), ["a", "b", "c", chat], "spd tau_dec=0.3")
    trace.save(tmp_path / "t")
    again = Trace.load(tmp_path / "t")
    assert again.prompts == {0: "a", 1: "b", 2: "c", 3: "user: hi\nassistant: ab"}
    assert again.texts == {token: chr(97 + token) for token in (1, 2, 3, 4, 5, 6)}
    assert again.label == "spd tau_dec=0.3"
    assert again.to_html(tmp_path / "p.html") == trace.to_html() == (tmp_path / "p.html").read_text(encoding="utf-8")


def test_a_file_without_texts_is_read_as_before(tmp_path):
    Trace({0: hand_made()}).save(tmp_path / "new")
    with safe_open(str(tmp_path / "new"), framework="pt") as file:
        header = json.loads(file.metadata()["rows"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    rows = {name: header[name] for name in ("index", "forwards", "tokens")}
    save_file(tensors, tmp_path / "old", metadata={"format": "dmaxlit-trace-1", "rows": json.dumps(rows)})
    old = Trace.load(tmp_path / "old")
    assert (old.prompts, old.texts, old.label) == ({}, {}, "")
    assert "trace" in old.to_html(tokenizer=Letters())


def test_prompts_without_a_record_are_refused():
    trace = Trace({3: hand_made(), 5: hand_made()}, texts=dict.fromkeys(range(10), "x"))
    expected = r"trace: expected the index of a prompt that it has a record of \(one of 2 from 3 to 5\), got 4"
    with pytest.raises(UserError, match=expected):
        trace.panel([3, 4])
    with pytest.raises(UserError, match=r"a record of \(none\), got 0"):
        Trace().to_html(indices=[0])
    with pytest.raises(UserError, match="trace: expected a record of at least one prompt, got none"):
        Trace().to_html()

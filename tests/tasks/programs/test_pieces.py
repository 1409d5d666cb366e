import json

from dmaxlit.data.encoding import encode_responses
from dmaxlit.tasks import task
from dmaxlit.tasks.programs import ProgramsTask
from dmaxlit.tasks.programs.task import PIECES
from dmaxlit.tasks.programs.train_pieces import train_tokenizer
from tests.sandbox.requirement import needs_sandbox


@needs_sandbox
def test_text_survives_and_fits_the_budget():
    tokenizer = ProgramsTask.tokenizer()
    for difficulty in ("easy", "standard", "hard"):
        programs = task("programs", difficulty=difficulty)
        texts = [example.response for example in programs.examples("val", 100)]
        encoded = encode_responses(tokenizer, texts)
        assert tokenizer.batch_decode(encoded) == texts
        assert max(map(len, encoded)) < programs.max_new_tokens


def test_a_line_with_its_indentation_is_one_piece():
    assert ProgramsTask.tokenizer().tokenize("def find_all(xs):\n    return xs") == [
        *["Ġdef", "Ġfind", "_all", "(", "xs", ")", ":"],
        *["ĊĠĠĠĠ", "return", "Ġxs"],
    ]


def test_training_again_gives_pieces_of_the_shipped_kind():
    pieces = json.loads(PIECES.read_text(encoding="utf-8"))["model"]["vocab"]
    again = train_tokenizer(programs=60).get_vocab()
    assert list(pieces)[:3] == ["<pad>", "<eos>", "<mask>"]
    words = [piece for piece in again if len(piece) > 3]
    assert len([piece for piece in words if piece in pieces]) > 0.95 * len(words)

"""Bodies of requests: a wrong one costs no more than a right one, however much is wrong with it."""

import pytest
from pydantic import ValidationError

from dmaxlit.server.protocol import ChatBody, CompletionBody

MANY = 10_000
KEYS = {f"k{index}": index for index in range(MANY)}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (CompletionBody, {"prompt": [{}] * MANY}),
        (CompletionBody, {"prompt": [[{}] * MANY]}),
        (CompletionBody, {"prompt": [[0.5]] * MANY}),
        (CompletionBody, {"prompt": "7", "stop": [1] * MANY}),
        (CompletionBody, {"prompt": "7"} | KEYS),
        (CompletionBody, {"prompt": "7", "metadata": KEYS}),
        (CompletionBody, {"prompt": "7", "stream": True, "stream_options": KEYS}),
        (ChatBody, {"messages": [1] * MANY}),
    ],
)
def test_a_body_in_which_very_much_is_wrong_has_few_errors(model, body):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    assert caught.value.error_count() <= 5


def test_as_many_keys_as_openai_grants_are_no_error():
    metadata = {f"k{index}": "v" for index in range(16)}
    assert CompletionBody.model_validate({"prompt": "7", "metadata": metadata}).metadata == metadata
    options = {f"k{index}": index for index in range(100)}  # which the decoder refuses, with its own message
    assert CompletionBody.model_validate({"prompt": "7", "decoder_options": options}).decoder_options == options

"""What official clients get is what generate gives."""

import asyncio
import json

import openai
import pytest

from dmaxlit.engine import DecodeSettings
from dmaxlit.server import Limits
from dmaxlit.tasks.prompts import TemplatedPrompt
from tests.server.running import NAME, PROMPT, Gate, running, tiny_module

PROMPTS = [PROMPT, "3 3 3", "2 -2 *3 +1 +1 -2 *3 *3 +1 ?", "", "0 0 0 with answer 3", "<mask> 4 <eos> 2"]
# Options of requests, as generate calls them.
OPTIONS = [
    {},
    {"max_new_tokens": 9, "decoder": "threshold", "threshold": 0.5},
    {"max_new_tokens": 40, "tau_dec": 0.0, "window": 2, "admission": "converging"},
    {"temperature": 1.2, "seed": 5, "top_p": 0.9, "stop": ["is", "7"]},
    {"temperature": 0.7, "seed": 6, "decoder": "edit", "max_forwards": 4},
    {"decoder": "wino", "max_new_tokens": 16},
    {"decoder": "psd", "stop": ["so"]},
    {"temperature": 2.0, "seed": 7, "decoder": "threshold", "threshold": 0.3},
]
OURS = {"decoder", "window", "admission", "max_forwards", "temperature", "seed", "top_p", "stop"}


def generated(module, prompt, options, first_index=0):
    settings = {"max_new_tokens": 24} | {name: value for name, value in options.items() if name in OURS}
    settings |= {"max_new_tokens": options.get("max_new_tokens", 24)}
    settings["decoder_options"] = {
        name: value for name, value in options.items() if name not in OURS | {"max_new_tokens"}
    }
    prompt = TemplatedPrompt(prompt) if isinstance(prompt, str) else prompt
    return module.generate_batch([prompt], settings, first_index=first_index)[0]


def asked(options):
    """The body's fields for options of generate."""
    body = {name: value for name, value in options.items() if name in OURS}
    body["decoder_options"] = {name: value for name, value in options.items() if name not in {*OURS, "max_new_tokens"}}
    return body | ({"max_tokens": options["max_new_tokens"]} if "max_new_tokens" in options else {})


def test_requests_with_settings_of_their_own_at_the_same_time_get_what_generate_gives(module, server):
    cases = [(prompt, options) for prompt in PROMPTS for options in OPTIONS]

    async def ask_all():
        async with server.async_client() as client:
            return await asyncio.gather(
                *(
                    client.completions.create(
                        model=NAME, prompt=prompt, extra_body={"return_token_ids": True, **asked(options)}
                    )
                    for prompt, options in cases
                )
            )

    for (prompt, options), response in zip(cases, asyncio.run(ask_all()), strict=True):
        expected = generated(module, prompt, options)
        (choice,) = response.choices
        assert choice.token_ids == expected.token_ids
        assert choice.text == expected.text
        assert choice.num_forwards == expected.num_forwards
        assert choice.finish_reason == ("stop" if expected.finished else "length")
        assert response.usage.prompt_tokens == len(choice.prompt_token_ids)
        assert response.usage.completion_tokens == expected.num_tokens
        assert getattr(response, "seed", None) == options.get("seed")


@pytest.mark.parametrize("options", [{}, {"stop": ["is"]}, {"temperature": 1.0, "seed": 3, "max_new_tokens": 30}])
@pytest.mark.parametrize("provisional", [False, True])
def test_a_streamed_chat_is_the_whole_one_and_shows_what_is_not_decided_apart(
    module, server, options, provisional, monkeypatch
):
    if provisional:
        Gate(module, monkeypatch, delay=0.004)  # unread drafts are replaced by newer ones
    messages = [{"role": "user", "content": PROMPT}]
    expected = generated(module, messages, options)
    whole = server.client.chat.completions.create(model=NAME, messages=messages, extra_body=asked(options))
    assert whole.choices[0].message.content == expected.text
    stream = list(
        server.client.chat.completions.create(
            model=NAME,
            messages=messages,
            stream=True,
            extra_body={
                **asked(options),
                "stream_options": {"include_usage": True, "include_provisional": provisional},
            },
        )
    )
    deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == whole.choices[0].finish_reason
    assert [chunk.usage for chunk in stream if chunk.usage] == [whole.usage]
    drafts = [chunk.provisional for chunk in stream if getattr(chunk, "provisional", None)]
    assert bool(drafts) == provisional
    if provisional:
        assert any(draft["text"] for draft in drafts)
        assert [draft["num_forwards"] for draft in drafts] == sorted({draft["num_forwards"] for draft in drafts})
    assert len({chunk.id for chunk in stream}) == 1


def test_committed_text_comes_before_the_end(module, server):
    expected = generated(module, "2 ?", {"max_new_tokens": 60, "decoder": "threshold"})
    texts = []
    for chunk in server.client.completions.create(
        model=NAME, prompt="2 ?", stream=True, max_tokens=60, extra_body={"decoder": "threshold"}
    ):
        texts.append(chunk.choices[0].text)
    assert "".join(texts) == expected.text
    assert expected.num_tokens > 16, "several blocks"
    assert len(list(filter(None, texts))) > 1


def test_several_prompts_and_several_responses_each_have_samples_of_their_own(module, server):
    options = {"temperature": 1.0, "decoder": "threshold"}
    response = server.client.completions.create(
        model=NAME, prompt=PROMPTS[:2], n=3, temperature=1.0, seed=11, extra_body={"decoder": "threshold"}
    )
    assert [choice.index for choice in response.choices] == list(range(6))
    expected = [
        generated(module, prompt, {**options, "seed": 11 + choice}, first_index=index).text
        for index, prompt in enumerate(PROMPTS[:2])
        for choice in range(3)
    ]
    assert [choice.text for choice in response.choices] == expected
    assert len(set(expected)) > 3
    streamed = dict.fromkeys(range(6), "")
    for chunk in server.client.completions.create(
        model=NAME, prompt=PROMPTS[:2], n=3, temperature=1.0, seed=11, stream=True, extra_body={"decoder": "threshold"}
    ):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert list(streamed.values()) == expected


def test_samples_without_a_seed_differ_and_can_be_repeated(server):
    hot = {"model": NAME, "prompt": PROMPT, "temperature": 1.5}
    first, second = (server.client.completions.create(**hot) for _ in range(2))
    assert first.seed != second.seed
    assert server.client.completions.create(**hot, seed=first.seed).choices[0].text == first.choices[0].text


def test_token_ids_of_a_prompt_are_data_the_mask_s_and_eos_s_too(module, server):
    special = module.backbone.special
    ids = [8, special.mask_id, 3, special.eos_id, special.mask_id, 4, 5, 6, 7, special.mask_id]
    engine = {"decoder": "threshold", "threshold": 0.5}
    from dmaxlit.engine import DecodeSettings

    expected = DecodeSettings("threshold", {"threshold": 0.5}).make_engine(module.backbone).decode([ids, [8]], 24)
    assert server.complete(ids, **asked(engine)).token_ids == expected[0].token_ids
    response = server.client.completions.create(
        model=NAME, prompt=[ids, [8]], extra_body={"return_token_ids": True, **asked(engine)}
    )
    assert [choice.token_ids for choice in response.choices] == [sequence.token_ids for sequence in expected]
    assert [choice.prompt_token_ids for choice in response.choices] == [ids, [8]]


def test_the_mask_token_s_text_in_a_prompt_is_text(module, server):
    text = f"7 {module.tokenizer.mask_token} 3"
    choice = server.complete(text)
    assert module.backbone.special.mask_id not in choice.prompt_token_ids
    assert choice.token_ids == generated(module, text, {}).token_ids
    chat = server.client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": text}])
    assert chat.choices[0].message.content == choice.text


def test_models_health_and_metrics(server):
    assert [model.id for model in server.client.models.list()] == [NAME]
    assert server.client.models.retrieve(NAME).owned_by == "dmaxlit"
    with pytest.raises(openai.NotFoundError, match="expected 'tiny', got 'gpt-4'"):
        server.client.models.retrieve("gpt-4")
    assert server.http.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    before = server.metric("dmaxlit_response_tokens_total"), server.metric("dmaxlit_response_forwards_total")
    choice = server.complete("8 ?")
    assert server.metric("dmaxlit_response_tokens_total") - before[0] == len(choice.token_ids)
    assert server.metric("dmaxlit_response_forwards_total") - before[1] == choice.num_forwards
    assert server.metric('dmaxlit_http_requests_total{path="/health",status="200"}') >= 1


def test_fields_that_ask_for_nothing_are_accepted(module, server):
    response = server.client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": [{"type": "text", "text": "7 ?"}]}],
        max_completion_tokens=8,
        user="someone",
        frequency_penalty=0.0,
        presence_penalty=0,
        logprobs=False,
        response_format={"type": "text"},
        n=1,
    )
    assert response.choices[0].message.content == generated(module, "7 ?", {"max_new_tokens": 8}).text


def test_a_server_s_own_settings_hold_where_a_request_says_nothing(module):
    from dmaxlit.engine import DecodeSettings

    defaults = DecodeSettings("threshold", {"threshold": 0.5}, max_new_tokens=12, temperature=0.9)
    with running(module, defaults=defaults) as server:
        options = {"decoder": "threshold", "threshold": 0.5, "max_new_tokens": 12, "temperature": 0.9, "seed": 4}
        assert server.complete("3 ?", seed=4).token_ids == generated(module, "3 ?", options).token_ids
        options |= {"max_tokens": 1, "temperature": 0}
        other = server.complete("3 ?", temperature=0, decoder="spd")
        assert other.token_ids == generated(module, "3 ?", {"max_new_tokens": 12}).token_ids


def test_a_server_s_own_policy_is_that_of_requests_with_a_window(module):
    from dmaxlit.engine import DecodeSettings

    defaults = DecodeSettings(max_new_tokens=24, admission="converging")
    with running(module, defaults=defaults) as server:
        for window, policy in ((1, "progress"), (2, "converging")):
            expected = generated(module, "3 ?", {"window": window, "admission": policy})
            assert server.complete("3 ?", temperature=0, window=window).token_ids == expected.token_ids
        assert server.complete("3 ?", temperature=0).token_ids == generated(module, "3 ?", {}).token_ids


def test_events_are_json_on_one_line(server):
    body = {"prompt": PROMPT, "stream": True, "stream_options": {"include_provisional": True}}
    text = server.http.post("/v1/completions", json=body).text
    events = [event.split("\n") for event in text.strip().split("\n\n")]
    assert events[-1] == ["data: [DONE]"]
    for event in events[:-1]:
        content = json.loads(event[-1].removeprefix("data: "))
        assert ("provisional" in content) == (event[0] == "event: provisional")


def test_chats_go_through_the_chat_template_and_completions_do_not():
    module = tiny_module()
    module.tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role[:1] }} {{ message.content }} ; {% endfor %}so"
    )
    messages = [{"role": "system", "content": "2 +1"}, {"role": "user", "content": PROMPT}]
    with running(module) as server:
        chat = server.client.chat.completions.create(
            model=NAME, messages=messages, extra_body={"return_token_ids": True, "decoder": "threshold"}
        )
        expected = generated(module, messages, {"decoder": "threshold"})
        assert chat.choices[0].token_ids == expected.token_ids
        completion = server.complete(PROMPT, decoder="threshold")
    assert completion.token_ids == generated(module, PROMPT, {"decoder": "threshold"}).token_ids
    assert len(chat.choices[0].prompt_token_ids) > len(completion.prompt_token_ids)


@pytest.mark.parametrize("field", ["tool_calls", "function_call"])
@pytest.mark.parametrize("is_written", [True, False])
def test_chats_whose_calls_the_chat_template_would_drop_are_refused(field, is_written):
    module = tiny_module()
    written = f"message.{field}" if is_written else "message.content"
    module.tokenizer.chat_template = f"{{% for message in messages %}}{{{{ {written} or 7 }}}} {{% endfor %}}so"
    call = {"role": "assistant", "content": None, field: [{"function": {"name": "f", "arguments": "{}"}}]}
    with running(module) as server:
        response = server.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "7"}, call]})
    assert response.status_code == (200 if is_written else 400)
    if not is_written:
        error = response.json()["error"]
        assert error["param"] == "messages"
        assert error["message"].endswith(f"the chat template does not write {field}, which are lost")


def test_a_request_without_a_budget_has_that_of_the_server_up_to_the_most_allowed():
    with running(tiny_module(), Limits(max_tokens=5), DecodeSettings(max_new_tokens=24)) as server:
        assert len(server.complete(PROMPT).token_ids) == 5

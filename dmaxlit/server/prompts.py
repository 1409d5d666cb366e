"""The prompts of a request, and their token ids."""

from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from dmaxlit.data.encoding import Prompt, encode_prompt
from dmaxlit.data.lost_turns import check_losses
from dmaxlit.engine.prompts import as_prompt
from dmaxlit.errors import PromptError, UserError
from dmaxlit.server.errors import bad_request
from dmaxlit.server.protocol import ChatBody, CompletionBody
from dmaxlit.tasks.prompts import TemplatedPrompt


class TokenIds(list[int]):
    """A prompt that a client has encoded itself."""


#: A text to continue, chat messages, or token ids.
PromptField: TypeAlias = Prompt | TokenIds


def prompts_of(body: ChatBody | CompletionBody, most: int) -> list[PromptField]:
    """Return the prompts of a request.

    Args:
        body: The request.
        most: Most responses of a request.

    Raises:
        ApiError: If there are none, or too many.
    """
    prompts: list[PromptField] = [body.messages] if isinstance(body, ChatBody) else _separate(body.prompt)
    if not prompts:
        raise bad_request("prompt: expected at least one, got an empty list", "prompt")
    count = len(prompts) * (body.n or 1)
    if count > most:
        name = "n" if len(prompts) == 1 else "prompt"
        raise bad_request(f"{name}: expected at most {most} responses to be asked for, got {count}", name)
    return prompts


def _separate(field: str | list[str] | list[int] | list[list[int]]) -> list[PromptField]:
    """Return the prompts of a field that may be one or several."""
    if isinstance(field, str):
        return [TemplatedPrompt(field)]
    prompts: list[PromptField] = []
    ids = TokenIds()
    for item in field:
        if isinstance(item, int):
            ids.append(item)
        else:
            prompts.append(TemplatedPrompt(item) if isinstance(item, str) else TokenIds(item))
    return [ids] if ids else prompts


def encode(tokenizer: PreTrainedTokenizerBase, index: int, prompt: PromptField) -> list[int]:
    """Return the token ids of a prompt. The text of a special token, the mask's too, is ordinary text.

    Args:
        tokenizer: The tokenizer.
        index: Index among the prompts of the request.
        prompt: The prompt.

    Raises:
        PromptError: For something that is no prompt, or is not encoded without a loss.
    """
    if isinstance(prompt, TokenIds):
        return prompt
    try:
        one = as_prompt(prompt)
        check_losses(tokenizer, [one])
        return encode_prompt(tokenizer, one)
    except PromptError as error:
        raise PromptError(index, error.reason) from error
    except UserError as error:
        raise PromptError(index, str(error).removeprefix("prompt: ")) from error

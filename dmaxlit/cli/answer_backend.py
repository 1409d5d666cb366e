"""``--backend``: who answers the prompts of ``distill``, and the settings that are only for the one or the other."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dmaxlit.cli.unused_settings import first_given
from dmaxlit.errors import UserError

if TYPE_CHECKING:
    from dmaxlit.data.answer_server import AnswerServer

_OF_SERVER = ("base_url", "endpoint", "request_options", "concurrency", "max_retries", "timeout")
_OF_MODEL = (
    *("decoder", "decoder_options", "check_decoder", "chat_template", "template_options", "dtype", "probe"),
    *("device", "accelerator", "devices", "num_nodes", "strategy"),
)


def server_of(command: Callable[..., None], arguments: Mapping[str, Any]) -> "AnswerServer | None":
    """Return the server that is to answer; None if a model of this process answers.

    Args:
        command: The function of the command, whose defaults tell what the user has set.
        arguments: What it was called with.

    Raises:
        UserError: If a setting of the other backend was given, or one of the server's is out of range.
    """
    uses_server = arguments["backend"] == "openai"
    unused = _OF_MODEL if uses_server else _OF_SERVER
    if (other := first_given(command, arguments, arguments.keys() - set(unused))) is not None:
        raise UserError(f"{other[0]}: expected none with the backend {arguments['backend']}, got {other[1]!r}")
    if not uses_server:
        return None
    if arguments["base_url"] is None:
        raise UserError("base_url: expected the address of a server for the backend openai, got none")
    from dmaxlit.data.answer_server import AnswerServer

    settings = {name: arguments[name] for name in _OF_SERVER} | {"request_options": arguments["request_options"] or {}}
    return AnswerServer(model=arguments["model"], **settings)

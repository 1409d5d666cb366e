"""``dmaxlit serve``."""

import ipaddress
import os
import sys
from argparse import SUPPRESS
from typing import Any

from dmaxlit.cli.arguments import Dtype, call, decode_settings, load_model, make_parser
from dmaxlit.errors import UserError, printable

_KEY_VARIABLE = "DMAXLIT_API_KEY"
_OF_VARIABLE: Any = object()
_MIB, _MAX_BYTES = 2**20, 2**63


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    parser = make_parser(command, serve, skip=["api_key"])
    # Absent unless it is given, so that a key that is null, such as `api_key: #secret` in a file, is told from none.
    parser.add_argument(
        "--api_key",
        type=str,
        default=SUPPRESS,
        help=f"Key that clients must send. Default: the environment variable {_KEY_VARIABLE}, or none.",
    )
    call(parser, serve, args)


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = _OF_VARIABLE,
    name: str | None = None,
    decoder: str | None = None,
    decoder_options: dict[str, Any] | None = None,
    window: int = 1,
    admission: str = "progress",
    admission_options: dict[str, Any] | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    chat_template: str | None = None,
    template_options: dict[str, Any] | None = None,
    batch_size: int = 32,
    max_waiting: int = 256,
    max_responses: int = 128,
    max_tokens: int | None = None,
    max_length: int | None = None,
    max_window: int = 4,
    max_extra_blocks: int = 8,
    max_mixed_tokens: int = 16,
    max_body_mib: float = 4.0,
    max_seconds: float = 600.0,
    shutdown_seconds: float = 30.0,
    log_requests: bool = False,
    check_decoder: bool = True,
    device: str = "auto",
    dtype: Dtype = "float32",
    probe: bool = True,
) -> None:
    """Serve a model over HTTP, with OpenAI's API: completions and chats, whole or as streams.

    All requests share the forwards of one engine; each has its own decoder, options, temperature, seed and stop texts,
    and gets what generate gives it alone. Ctrl-C or SIGTERM lets what is being decoded end.

    Args:
        model: Folder, .ckpt file, hub id, or builtin:NAME.
        host: Address to listen at. The default is reached from this machine only.
        port: Port to listen at; 0 for one that is free.
        api_key: Key that clients must send. Default: the environment variable DMAXLIT_API_KEY, or none.
        name: Name of the model for clients. Default: that of --model.
        decoder: Decoder of requests that name none: registered name, or import path of your own. Default: the one that
            the model was judged with, with its options, or spd.
        decoder_options: Options of that decoder, also as --decoder.tau_dec 0.3.
        window: Most open blocks of a response, for requests that do not say.
        admission: Policy of the window of requests that name none: registered name, or import path of your own.
        admission_options: Options of that policy, also as --admission.theta 0.8.
        max_new_tokens: Most tokens of a response, for requests that do not say. Default: that of the task the model was
            trained on, or 256.
        temperature: Temperature of requests that do not say; 0 takes the most probable tokens.
        top_p: Nucleus of requests that do not say.
        chat_template: Name of one of the tokenizer's chat templates, or a .jinja file. Default: the model's own.
        template_options: Values of variables that the chat template reads, also as --template_options.enable_thinking
            false.
        batch_size: Most responses that are decoded at the same time.
        max_waiting: Most responses that wait for that; more are refused with status 429.
        max_responses: Most responses of one request: its prompts times n.
        max_tokens: Most tokens of a response that may be asked for. Default: as many as the context holds.
        max_length: Most tokens of a prompt and its response, to which longer budgets are cut. Default: the model's
            context.
        max_window: Most open blocks of a response that may be asked for.
        max_extra_blocks: Most versions of a block beside the block itself that a request's decoder may read in a
            forward, as psd and wino do. Those of --decoder are granted in any case.
        max_mixed_tokens: Most tokens, the mask token among them, that a request's decoder may mix at a position, as spd
            does by its top_k. Those of --decoder are granted in any case.
        max_body_mib: Most MiB of a request.
        max_seconds: Most seconds from the arrival of a request to its last token.
        shutdown_seconds: Seconds in which responses may end after the server was told to stop.
        log_requests: Log every request.
        check_decoder: Check what a decoder of your own returns in the first forwards.
        device: cpu, cuda, ...; auto takes an accelerator if there is one.
        dtype: Type of the weights. In bfloat16 a model needs half the memory; answers may differ from float32's.
        probe: Check by nine forwards of a few tokens that the model obeys block masks and positions.
    """
    try:
        from dmaxlit.server import Limits, create_app, listen
        from dmaxlit.server import serve as serve_app
    except ModuleNotFoundError as error:
        raise UserError(
            f"serve: expected the packages of the extra serve, found no {error.name}; pip install -e '.[serve]'"
        ) from error

    if not 1 <= max_body_mib * _MIB < _MAX_BYTES:
        raise UserError(f"max_body_mib: expected at least 1 byte and less than 2**63 bytes, got {max_body_mib:g} MiB")
    limits = Limits(
        batch_size=batch_size,
        max_waiting=max_waiting,
        max_responses=max_responses,
        max_tokens=max_tokens,
        max_length=max_length,
        max_window=max_window,
        max_extra_blocks=max_extra_blocks,
        max_mixed_tokens=max_mixed_tokens,
        max_body=int(max_body_mib * _MIB),
        max_seconds=max_seconds,
        shutdown_seconds=shutdown_seconds,
    )
    if window > max_window:
        raise UserError(f"window: expected at most --max_window, {max_window}, got {window}")
    if api_key is None:
        raise UserError("api_key: expected a key, got null")
    key = os.environ.get(_KEY_VARIABLE) if api_key is _OF_VARIABLE else api_key
    if key is not None and not key.strip():
        raise UserError("api_key: expected a key, got an empty text")
    if key is not None and not (key.strip().isascii() and key.strip().isprintable()):  # clients could not send it
        raise UserError("api_key: expected printable ASCII characters, got others")
    listener = listen(host, port)
    with listener:
        module = load_model(model, device, dtype, probe, chat_template, template_options)
        settings = decode_settings(
            module,
            decoder,
            decoder_options,
            admission_options,
            max_new_tokens,
            window=window,
            admission=admission,
            temperature=temperature,
            top_p=top_p,
            check_decoder=check_decoder,
        )
        model_name = name or model.removeprefix("builtin:").rstrip("/").rpartition("/")[2]
        app = create_app(module, model_name, settings, limits, key)
        if key is None and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            warning = f"warning: {host} may be reached from other machines, and there is no --api_key"
            print(printable(warning), file=sys.stderr)
        serve_app(
            app, listener, log_requests, lambda url: print(printable(f"{model_name}: {url} (Ctrl-C stops)"), flush=True)
        )

"""``dmaxlit check``."""

import inspect
import sysconfig
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

import dmaxlit
from dmaxlit.cli.messages import closest, one_line
from dmaxlit.cli.option_flags import PARSER_MODE
from dmaxlit.decoding import DECODERS
from dmaxlit.decoding.admission import ADMISSIONS
from dmaxlit.errors import UserError, check_choice, printable, reason_of
from dmaxlit.noise import NOISE
from dmaxlit.registry import Registry
from dmaxlit.tasks import TASKS
from dmaxlit.testing import (
    ContractError,
    Property,
    admission_properties,
    decoder_properties,
    noise_properties,
    task_properties,
)

Kind = Literal["noise", "decoder", "admission", "task"]

_KINDS: dict[str, tuple[Registry[Any], Callable[..., list[Property]]]] = {
    "noise": (NOISE, noise_properties),
    "decoder": (DECODERS, decoder_properties),
    "admission": (ADMISSIONS, admission_properties),
    "task": (TASKS, task_properties),
}


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    if not args or args[0] in ("-h", "--help"):
        _help_parser(command).print_help()
        return
    kind, args = _split_kind(args)
    num_names = next((index for index, arg in enumerate(args) if arg.startswith("-")), len(args))
    check(args[:num_names], kind, args[num_names:])


def check(names: list[str], kind: Kind | None = None, options: Sequence[str] = ()) -> None:
    """Test what every noise strategy, decoder, admission policy or task must do, and print a line for each property.

    It takes seconds and no model. The exit status is 0 if every property holds, 1 if one does not, and 2 if a name or
    option cannot be used. In a test file, dmaxlit.testing gives the same properties to pytest.

    Args:
        names: Registered names, or import paths of your own classes.
        kind: ``noise``, ``decoder``, ``admission`` or ``task``, for a name that several have.
        options: Options of the constructor of each, as ``["--option", "value"]``.

    Raises:
        UserError: If a name or option cannot be used.
        SystemExit: With status 1 if a property does not hold.
    """
    if not names:
        raise UserError(f"names: expected the name or import path of {_described(_KINDS)} first, got none")
    found = [_properties(name, kind, options) for name in names]
    num_broken = sum(_report(name, properties) for name, properties in zip(names, found, strict=True))
    if num_broken:
        raise SystemExit(1)


def _help_parser(command: str) -> ArgumentParser:
    """Return a parser that explains the command; the options of a class are known only when it is."""
    usage = f"dmaxlit check NAME [NAME ...] [--kind {'|'.join(_KINDS)}] [--option value ...]"
    description = (inspect.getdoc(check) or "").partition("\n\nArgs:")[0]
    parser = ArgumentParser(prog=f"dmaxlit {command}", usage=usage, description=description)
    parser.add_argument("names", nargs="+", help="Registered name, or import path of a class of your own.")
    parser.add_argument("--kind", choices=list(_KINDS), help="For a name that classes of several kinds have.")
    parser.add_argument("--option", help="An option of its constructor; dmaxlit check NAME --help explains them.")
    return parser


def _split_kind(args: Sequence[str]) -> tuple[Kind | None, list[str]]:
    """Return the value of ``--kind`` and the other arguments."""
    kind, rest, pending = None, [], False
    for arg in args:
        flag, equals, value = ("--kind", "=", arg) if pending else arg.partition("=")
        pending = flag == "--kind" and not equals
        if flag == "--kind":
            kind = value if equals else kind
        else:
            rest.append(arg)
    if pending:
        raise UserError(f"kind: expected one of {', '.join(_KINDS)}, got nothing")
    if kind is not None:
        check_choice("kind", kind, tuple(_KINDS))
    return kind, rest  # type: ignore[return-value]


def _properties(name: str, kind: Kind | None, options: Sequence[str]) -> list[Property]:
    """Return the properties of a class, and refuse options that it does not take."""
    found = {one: cls for one in _KINDS if kind in (None, one) and (cls := _find(name, one)) is not None}
    if len(found) > 1:
        flags = " or ".join(f"--kind {one}" for one in found)
        raise UserError(f"{name}: expected {flags} with it, since each has that name")
    if not found:
        kinds = [one for one in _KINDS if kind in (None, one)]
        known = dict.fromkeys(known for one in kinds for known in _KINDS[one][0])
        raise UserError(
            f"{name}: expected the name or import path of {_described(kinds)}, got none{closest(name, known)}; "
            f"known: {', '.join(known)}"
        )
    ((one, cls),) = found.items()
    given = _parse(name, cls, options)
    try:
        return _KINDS[one][1](cls, **given)
    except UserError:
        raise
    except Exception as error:  # whatever the user's constructor raises
        raise UserError(f"{name}: cannot be made ({_describe(error)})") from error


def _described(kinds: Iterable[str]) -> str:
    *others, last = (_KINDS[one][0].kind for one in kinds)
    article = "an" if (others or [last])[0].startswith("a") else "a"
    return f"{article} {', '.join(others)} or {last}" if others else f"{article} {last}"


def _find(name: str, kind: str) -> type[Any] | None:
    """Return the class of a kind with a registered name, class name or import path; None if there is none."""
    registry = _KINDS[kind][0]
    if name in registry:
        return registry.get(name)
    if "." not in name:
        return next((cls for cls in map(registry.get, registry) if cls.__name__ == name), None)
    if not Registry.admits_import_paths:
        raise UserError(f"{name}: expected a registered name with --safe, got an import path")
    module, _, attribute = name.rpartition(".")
    try:
        value = getattr(import_module(module), attribute)
    except Exception as error:  # whatever the user's file raises
        raise UserError(f"{name}: cannot be imported ({_describe(error)})") from error
    return value if isinstance(value, type) and issubclass(value, registry.base or object) else None


def _parse(name: str, cls: type[Any], args: Sequence[str]) -> dict[str, Any]:
    """Return the options that are given, as the constructor takes them."""
    parser = ArgumentParser(prog=f"dmaxlit check {name}", exit_on_error=False, parser_mode=PARSER_MODE)
    known = parser.add_class_arguments(cls, fail_untyped=False, instantiate=False)
    given = [arg.removeprefix("--").partition("=")[0].partition(".")[0] for arg in args if arg.startswith("--")]
    for option in given:
        if option not in (*known, "help"):
            hint = f"{closest(option, known)}; known: {', '.join(known) or 'none'}"
            raise UserError(f"{name}: unknown option {option!r}{hint}")
    try:
        values = parser.instantiate_classes(parser.parse_args(list(args))).as_dict()
    except (ArgumentError, ValueError) as error:
        raise UserError(f"{name}: {one_line(error, known)}") from error
    return {option: value for option, value in values.items() if option in given}


def _report(name: str, properties: Sequence[Property]) -> int:
    """Print a line for each property; return how many do not hold."""
    print(printable(name))
    messages: dict[str, str] = {}  # of the properties that do not hold, with the first of each message
    num_broken = 0
    for item in properties:
        message = _test(item)
        num_broken += message is not None
        if message is None:
            print(printable(f"  ok     {item}"))
        elif message in messages:
            print(printable(f"  wrong  {item}: as in {messages[message]!r}"))
        else:
            messages[message] = str(item)
            print(printable(f"  wrong  {item}: {message}"))
    held = len(properties) - num_broken
    print(printable(f"{name}: {held} of {len(properties)} properties hold"))
    return num_broken


def _test(item: Property) -> str | None:
    """Return in one line what is wrong, or None."""
    try:
        item()
    except ContractError as error:
        return " ".join(str(error).split())
    except Exception as error:  # whatever the user's class raises
        return f"it raised {_describe(error)}"
    return None


def _describe(error: Exception) -> str:
    """Return type and text of an exception, and the last line outside of dmaxlit and libraries that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{reason_of(error, with_type=True)}{where}"


def _is_own(file: str) -> bool:
    """Return whether a file belongs neither to dmaxlit nor to a library."""
    folders = [Path(dmaxlit.__file__).parent, *map(Path, sysconfig.get_paths().values())]
    return not file.startswith("<") and not any(Path(file).is_relative_to(folder) for folder in folders)

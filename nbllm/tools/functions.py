"""From a Python function to a tool: its name, what its docstring says, and a JSON schema of its parameters.

Types are pydantic's matter: one model for each function, its fields under neutral names with the parameters'
names as aliases, because a parameter may be called what no field may (`schema`, `_x`). The model validates a
call's arguments, and its values are what the function is called with: a date where a date is annotated. What
was not sent is left to the function's own default.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, NamedTuple, Optional

from ..core.errors import ConfigError, error_line
from ..core.messages import Tool
from ..core.schema import format_path, walk_schema
from ..core.values import DEFAULT_BUDGET
from .names import fit
from .usable import Arguments, ToolArgumentsError, Usable

_HINT = "Nothing was sent. "
# Types in words, as docstrings of functions without annotations have them.
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("str", "string", "text"), str),
    **dict.fromkeys(("int", "integer"), int),
    **dict.fromkeys(("float", "number"), float),
    **dict.fromkeys(("bool", "boolean"), bool),
    **dict.fromkeys(("list of str", "list[str]"), list[str]),
    **dict.fromkeys(("list of int", "list[int]"), list[int]),
    **dict.fromkeys(("list of float", "list[float]"), list[float]),
    "list": list,
    "dict": dict,
}
_DEFAULTS: dict[type, Any] = {str: str, bool: bool, int: int | float, float: float}  # by what a default is


class _Doc(NamedTuple):
    """What a docstring says: of the function, and of each parameter its words and its type in words."""

    text: str
    notes: Mapping[str, str]
    types: Mapping[str, str]


def of(
    function: Callable[..., Any],
    *,
    reads: bool | None = None,
    timeout: float | None = None,
    budget: int = DEFAULT_BUDGET,
    strict: bool | None = None,
) -> Usable:
    """A function, method, partial or callable object as a tool. reads: it changes nothing. timeout: seconds
    that an `async def` may take. budget: tokens of a result. strict: the provider holds its calls to the
    schema. Raises ConfigError, which names the function and the parameter, for what a model cannot be told
    and for a timeout that could not be kept."""
    inner = _inner(function)
    name = _name(function, inner)
    if timeout is not None and not (inspect.iscoroutinefunction(inner) and timeout > 0):
        raise ConfigError(
            f"{name} cannot have timeout={timeout!r}: it is for an `async def`, in seconds above 0.",
            hint=f"{_HINT}A plain function runs on the thread that reads the answer, where only ■ ends it.",
        )
    doc = _documented(inner, function)
    signature = _signature(function, name)
    hints = _hints(inner, signature, name)
    types = {p.name: _type(p, hints, doc, name) for p in signature.parameters.values()}
    model, schema = _model(signature, types, doc, name)
    return Usable(
        Tool(fit(name), doc.text, schema, strict),
        functools.partial(_called, function, signature),
        source=f"function {name}",
        reads=reads,
        check=functools.partial(_checked, model),
        timeout=timeout,
        budget=budget,
    )


def _inner(function: Any) -> Any:
    """The function that was written: without partials, wrappers and the object that it is a method of."""
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isroutine(function) or hasattr(function, "__wrapped__")):
        function = getattr(function, "__call__", function) if callable(function) else function  # noqa: B004
    return inspect.unwrap(function)


def _name(function: Any, inner: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__name__", "") or type(function).__name__
    if not callable(function) or isinstance(function, type):
        kind = "a class" if isinstance(function, type) else type(function).__name__
        raise ConfigError(
            f"Not a tool: {name!r} is {kind}, not a function.",
            hint=f"{_HINT}Pass a function, or a method of an object.",
        )
    if name == "<lambda>":
        raise ConfigError(
            "A lambda has no name and no types that a model could be told.",
            hint=f"{_HINT}Write it as a function, with `def`.",
        )
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigError(
            f"{name} is a generator: it yields where a tool returns.", hint=f"{_HINT}Return a list."
        )
    return name


def _signature(function: Any, name: str) -> inspect.Signature:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name} has no signature that Python can tell.",
            hint=f"{_HINT}Write a function around it, with annotated parameters.",
        ) from None
    for p in signature.parameters.values():
        if p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            stars = "*" if p.kind is Parameter.VAR_POSITIONAL else "**"
            raise ConfigError(
                f"{name} takes {stars}{p.name}: a model cannot be told which arguments these are.",
                hint=f"{_HINT}Name each parameter (a decorator should use functools.wraps).",
            )
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return signature.replace(parameters=[p for n, p in signature.parameters.items() if n not in bound])


def _hints(inner: Any, signature: inspect.Signature, name: str) -> Mapping[str, Any]:
    """The parameters' annotations, resolved where they are texts. Raises ConfigError for one that leads
    nowhere. That of what is returned tells a model nothing, and may name what only a type checker imports."""
    own = {kind.__name__: kind for kind in getattr(inner, "__type_params__", ())}
    hints: dict[str, Any] = {}
    for p in signature.parameters.values():
        given = {} if p.annotation is Parameter.empty else {p.name: p.annotation}
        holder = types.SimpleNamespace(__annotations__=given)
        try:
            hints |= typing.get_type_hints(
                holder, getattr(inner, "__globals__", {}), own, include_extras=True
            )
        except Exception as exc:  # noqa: BLE001 - an annotation is an expression, which may raise anything
            raise ConfigError(
                f"The parameter {p.name!r} of {name} has a type that cannot be found: {error_line(exc)}.",
                hint=f"{_HINT}Import or define it before the function is used.",
            ) from None
    return hints


def _type(p: Parameter, hints: Mapping[str, Any], doc: _Doc, name: str) -> Any:
    """What a parameter takes: its annotation; without one, what the docstring or its default tells."""
    if type(p.default).__name__ == "FieldInfo":
        raise ConfigError(
            f"The default of the parameter {p.name!r} of {name} is a pydantic Field.",
            hint=f"{_HINT}Write {p.name}: Annotated[type, Field(...)] = default.",
        )
    told = _WORDS.get(doc.types.get(p.name, "").lower()) or _DEFAULTS.get(type(p.default))
    kind = hints.get(p.name, told)
    if kind is None:
        todo = f"Write it as {p.name}: str, or with the type that it has."
        raise ConfigError(
            f"The parameter {p.name!r} of {name} has no annotation: no type that a model could be told.",
            hint=_HINT + ("Pass the method of an object, not of its class." if p.name == "self" else todo),
        )
    return Optional[kind] if p.default is None else kind  # noqa: UP045 - kinds that | does not take


def _model(
    signature: inspect.Signature, types: Mapping[str, Any], doc: _Doc, name: str
) -> tuple[Any, dict[str, Any]]:
    """The pydantic model of all parameters, and its schema."""
    from pydantic import ConfigDict, Field, create_model

    def field(p: Parameter) -> tuple[Any, Any]:
        default = ... if p.default is Parameter.empty else p.default
        return types[p.name], Field(default, alias=p.name, description=_note(types[p.name], p, doc))

    def made(*parameters: Parameter) -> tuple[Any, dict[str, Any]] | Exception:
        try:
            fields: dict[str, Any] = {f"f{i}": field(p) for i, p in enumerate(parameters)}
            model: Any = create_model(fit(name), __config__=ConfigDict(extra="forbid"), **fields)
            schema = _schema(model)
            # a Final with a default is none of its fields, and what holds itself is a reference
            lost = len(model.model_fields) < len(fields) or "$ref" in schema
        except Exception as exc:  # noqa: BLE001 - pydantic's own, and whatever a type's own hooks raise
            return exc
        return TypeError("not a field") if lost else (model, schema)

    parameters = tuple(signature.parameters.values())
    found = made(*parameters)
    if not isinstance(found, Exception):
        return found
    wrong = next((p for p in parameters if isinstance(made(p), Exception)), parameters[0])
    old = "typing_extensions" in str(found)  # pydantic's words where Python is older than 3.12
    raise ConfigError(
        f"The parameter {wrong.name!r} of {name} has a type that no JSON can hold: "
        f"{inspect.formatannotation(types[wrong.name])[:160]}.",
        hint=f"{_HINT}Take TypedDict from typing_extensions, not from typing."
        if old
        else f"{_HINT}Take text, numbers, lists, or models, and make the object inside the function.",
    )


def _note(kind: Any, p: Parameter, doc: _Doc) -> str | None:
    """What a model is told of a parameter: its Annotated note, else the docstring's."""
    union = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()
    for extra in (m for k in (kind, *union) for m in getattr(k, "__metadata__", ())):
        note = extra if isinstance(extra, str) else getattr(extra, "description", None)
        note = note or getattr(extra, "documentation", None)
        if isinstance(note, str):
            return note
    return doc.notes.get(p.name) or None


def _schema(model: Any) -> dict[str, Any]:
    """Its JSON schema, without titles (they repeat the names) and without defaults that are no JSON."""
    from pydantic.json_schema import GenerateJsonSchema

    class Quiet(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as pydantic has it

    schema: dict[str, Any] = model.model_json_schema(schema_generator=Quiet)
    for _, part in walk_schema(schema):
        part.pop("title", None)
        default = part.get("default")
        if isinstance(default, float) and not math.isfinite(default):
            del part["default"]
    return {"type": "object", "properties": {}, **schema}


def _checked(model: Any, arguments: Mapping[str, Any]) -> Arguments:
    """The arguments as the function takes them, by the parameters' names."""
    from pydantic import ValidationError

    try:
        made = model.model_validate(dict(arguments))
    except ValidationError as exc:
        found = exc.errors(include_url=False, include_context=False, include_input=False)
        raise ToolArgumentsError([f"{format_path(e['loc'], 'they')}: {e['msg']}" for e in found]) from None
    except Exception as exc:  # noqa: BLE001 - a type's own validator may raise anything
        raise ToolArgumentsError([error_line(exc)]) from None
    fields = type(made).model_fields
    return {fields[n].alias: getattr(made, n) for n in sorted(made.model_fields_set, key=list(fields).index)}


def _called(function: Callable[..., Any], signature: inspect.Signature, arguments: Arguments) -> Any:
    known = dict(arguments)
    first = [p for p in signature.parameters.values() if p.kind is Parameter.POSITIONAL_ONLY]
    given = [known.pop(p.name, p.default) for p in first]
    return function(*given, **known)


def _documented(inner: Any, function: Any) -> _Doc:
    text = inspect.getdoc(inner) or ""
    if text in ("", type.__call__.__doc__) and getattr(inner, "__name__", "") == "__call__":
        text = inspect.getdoc(type(function)) or ""
    import docstring_parser

    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return _Doc(text, {}, {})
    about = [parsed.short_description, parsed.long_description]
    if parsed.returns and parsed.returns.description:
        about.append(f"Returns: {parsed.returns.description}")
    named = [(n.strip().lstrip("*"), p) for p in parsed.params for n in p.arg_name.split(",")]
    return _Doc(
        "\n\n".join(filter(None, about)),
        {n: " ".join(p.description.split()) for n, p in named if p.description},
        {n: p.type_name.removesuffix(", optional") for n, p in named if p.type_name},
    )

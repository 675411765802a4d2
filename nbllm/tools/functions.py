"""Makes a tool of a Python function: its name, its docstring, and a JSON schema of its parameters.

Types are left to pydantic: each function has a model whose fields have neutral names, with the parameters'
names as aliases, because a parameter's name may not be allowed for a field (`schema`, `_x`). The model
validates a call's arguments, and the function gets its values: a date where a date is annotated. Missing
arguments are left to the function's own defaults.
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
from .names import valid_name
from .usable import Arguments, ToolArgumentsError, Usable

_NOT_SENT = "Nothing was sent. "
# Names of types in the docstrings of functions without annotations.
_TYPE_NAMES: dict[str, Any] = {
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
_DEFAULTS: dict[type, Any] = {
    str: str,
    bool: bool,
    int: int | float,
    float: float,
}  # by the type of a default


class _Doc(NamedTuple):
    """A docstring: the text about the function, and the notes and type names of its parameters."""

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
    """Makes a tool of a function, method, partial or callable object. reads: it changes nothing. timeout:
    seconds that an `async def` may take. budget: tokens of a result. strict: the provider enforces the schema
    for its calls. Raises ConfigError, with the function's and parameter's names, for what has no JSON schema
    and for a timeout that cannot be enforced."""
    inner = _unwrap(function)
    name = _check_function(function, inner)
    if timeout is not None and not (inspect.iscoroutinefunction(inner) and timeout > 0):
        raise ConfigError(
            f"{name} cannot have timeout={timeout!r}: it is for an `async def`, in seconds above 0.",
            hint=f"{_NOT_SENT}Only ■ ends a plain function, which runs on the reader's thread.",
        )
    doc = _parse_docstring(inner, function)
    signature = _signature(function, name)
    hints = _resolve_annotations(inner, signature, name)
    types = {p.name: _parameter_type(p, hints, doc, name) for p in signature.parameters.values()}
    model, schema = _build_model(signature, types, doc, name)
    return Usable(
        Tool(valid_name(name), doc.text, schema, strict),
        functools.partial(_call, function, signature),
        source=f"function {name}",
        reads=reads,
        check=functools.partial(_validate, model),
        timeout=timeout,
        budget=budget,
    )


def _unwrap(function: Any) -> Any:
    """The function itself, without partials, wrappers and the object that it is a method of."""
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isroutine(function) or hasattr(function, "__wrapped__")):
        function = getattr(function, "__call__", function) if callable(function) else function  # noqa: B004
    return inspect.unwrap(function)


def _check_function(function: Any, inner: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__name__", "") or type(function).__name__
    if not callable(function) or isinstance(function, type):
        kind = "a class" if isinstance(function, type) else type(function).__name__
        raise ConfigError(
            f"Not a tool: {name!r} is {kind}, not a function.",
            hint=f"{_NOT_SENT}Pass a function, or a method of an object.",
        )
    if name == "<lambda>":
        raise ConfigError(
            "A lambda has no name and no types for a model.",
            hint=f"{_NOT_SENT}Write it as a function, with `def`.",
        )
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigError(
            f"{name} is a generator, which cannot be a tool.", hint=f"{_NOT_SENT}Return a list."
        )
    return name


def _signature(function: Any, name: str) -> inspect.Signature:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name} has no signature that Python can read.",
            hint=f"{_NOT_SENT}Write a function around it, with annotated parameters.",
        ) from None
    for p in signature.parameters.values():
        if p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            stars = "*" if p.kind is Parameter.VAR_POSITIONAL else "**"
            raise ConfigError(
                f"{name} takes {stars}{p.name}: a model cannot know which arguments these are.",
                hint=f"{_NOT_SENT}Name each parameter (a decorator should use functools.wraps).",
            )
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return signature.replace(parameters=[p for n, p in signature.parameters.items() if n not in bound])


def _resolve_annotations(inner: Any, signature: inspect.Signature, name: str) -> Mapping[str, Any]:
    """The parameters' annotations, with strings resolved. Raises ConfigError for one that cannot be resolved.
    The return annotation is ignored: models do not need it, and it may name what only a type checker
    imports."""
    own = {kind.__name__: kind for kind in getattr(inner, "__type_params__", ())}
    hints: dict[str, Any] = {}
    for p in signature.parameters.values():
        annotations = {} if p.annotation is Parameter.empty else {p.name: p.annotation}
        holder = types.SimpleNamespace(__annotations__=annotations)
        try:
            hints |= typing.get_type_hints(
                holder, getattr(inner, "__globals__", {}), own, include_extras=True
            )
        except Exception as exc:  # noqa: BLE001 - an annotation is an expression, which may raise anything
            raise ConfigError(
                f"The parameter {p.name!r} of {name} has a type that cannot be found: {error_line(exc)}.",
                hint=f"{_NOT_SENT}Import or define it before the function is used.",
            ) from None
    return hints


def _parameter_type(p: Parameter, hints: Mapping[str, Any], doc: _Doc, name: str) -> Any:
    """A parameter's type: its annotation, or else the type by its docstring or default."""
    if type(p.default).__name__ == "FieldInfo":
        raise ConfigError(
            f"The default of the parameter {p.name!r} of {name} is a pydantic Field.",
            hint=f"{_NOT_SENT}Write {p.name}: Annotated[type, Field(...)] = default.",
        )
    documented = _TYPE_NAMES.get(doc.types.get(p.name, "").lower()) or _DEFAULTS.get(type(p.default))
    kind = hints.get(p.name, documented)
    if kind is None:
        todo = f"Write it as {p.name}: str, or with the type that it has."
        raise ConfigError(
            f"The parameter {p.name!r} of {name} has no annotation, and so no type for a model.",
            hint=_NOT_SENT
            + ("Pass the method of an object, not of its class." if p.name == "self" else todo),
        )
    return Optional[kind] if p.default is None else kind  # noqa: UP045 - kinds that | does not take


def _build_model(
    signature: inspect.Signature, types: Mapping[str, Any], doc: _Doc, name: str
) -> tuple[Any, dict[str, Any]]:
    """The pydantic model of all parameters, and its schema."""
    from pydantic import ConfigDict, Field, create_model

    def field(p: Parameter) -> tuple[Any, Any]:
        default = ... if p.default is Parameter.empty else p.default
        return types[p.name], Field(default, alias=p.name, description=_parameter_note(types[p.name], p, doc))

    def build(*parameters: Parameter) -> tuple[Any, dict[str, Any]] | Exception:
        try:
            fields: dict[str, Any] = {f"f{i}": field(p) for i, p in enumerate(parameters)}
            model: Any = create_model(valid_name(name), __config__=ConfigDict(extra="forbid"), **fields)
            schema = _schema(model)
            # a Final with a default is no field, and a recursive type becomes a reference
            lost = len(model.model_fields) < len(fields) or "$ref" in schema
        except Exception as exc:  # noqa: BLE001 - pydantic's own, and whatever a type's own hooks raise
            return exc
        return TypeError("not a field") if lost else (model, schema)

    parameters = tuple(signature.parameters.values())
    built = build(*parameters)
    if not isinstance(built, Exception):
        return built
    wrong = next((p for p in parameters if isinstance(build(p), Exception)), parameters[0])
    old = "typing_extensions" in str(built)  # pydantic's hint where Python is older than 3.12
    raise ConfigError(
        f"The parameter {wrong.name!r} of {name} has a type that no JSON can hold: "
        f"{inspect.formatannotation(types[wrong.name])[:160]}.",
        hint=f"{_NOT_SENT}Take TypedDict from typing_extensions, not from typing."
        if old
        else f"{_NOT_SENT}Take text, numbers, lists, or models, and make the object inside the function.",
    )


def _parameter_note(kind: Any, p: Parameter, doc: _Doc) -> str | None:
    """The note about a parameter for the model: of its Annotated, else of the docstring."""
    union = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()
    for extra in (m for k in (kind, *union) for m in getattr(k, "__metadata__", ())):
        note = extra if isinstance(extra, str) else getattr(extra, "description", None)
        note = note or getattr(extra, "documentation", None)
        if isinstance(note, str):
            return note
    return doc.notes.get(p.name) or None


def _schema(model: Any) -> dict[str, Any]:
    """The model's JSON schema, without titles (they repeat the names) and without defaults that JSON cannot
    hold."""
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


def _validate(model: Any, arguments: Mapping[str, Any]) -> Arguments:
    """The validated arguments by the parameters' names."""
    from pydantic import ValidationError

    try:
        values = model.model_validate(dict(arguments))
    except ValidationError as exc:
        problems = exc.errors(include_url=False, include_context=False, include_input=False)
        raise ToolArgumentsError([f"{format_path(e['loc'], 'they')}: {e['msg']}" for e in problems]) from None
    except Exception as exc:  # noqa: BLE001 - a type's own validator may raise anything
        raise ToolArgumentsError([error_line(exc)]) from None
    fields = type(values).model_fields
    return {
        fields[n].alias: getattr(values, n) for n in sorted(values.model_fields_set, key=list(fields).index)
    }


def _call(function: Callable[..., Any], signature: inspect.Signature, arguments: Arguments) -> Any:
    known = dict(arguments)
    first = [p for p in signature.parameters.values() if p.kind is Parameter.POSITIONAL_ONLY]
    positional = [known.pop(p.name, p.default) for p in first]
    return function(*positional, **known)


def _parse_docstring(inner: Any, function: Any) -> _Doc:
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

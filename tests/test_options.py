"""One table of options: what is derived from it agrees with what takes them."""

import inspect
import typing
from contextlib import closing
from dataclasses import fields
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import nbllm
from nbllm.bench import run
from nbllm.client.client import CallOptions
from nbllm.core.errors import ConfigError
from nbllm.core.messages import Request
from nbllm.core.options import (
    ADDRESS_OPTIONS,
    CALL_OPTIONS,
    OPTIONS,
    REQUEST_OPTIONS,
    SENDING_OPTIONS,
    CallSpec,
    option_keywords,
)
from nbllm.notebook import session, settings
from nbllm.notebook.completion import candidates
from nbllm.notebook.syntax import options as line
from nbllm.notebook.syntax.parser import parse
from nbllm.routing.dialects import DIALECTS


def test_a_call_takes_the_options_of_the_table():
    """The types of Client.stream's, a request's parameters, and what can be chosen."""
    assert set(CALL_OPTIONS) == set(typing.get_type_hints(CallOptions))
    assert set(CALL_OPTIONS) == {
        *REQUEST_OPTIONS,
        *ADDRESS_OPTIONS,
        *SENDING_OPTIONS,
        *option_keywords("use"),
    }
    own = {"model", "messages", "strict"}  # strict is of schemas and of tools
    assert {f.name for f in fields(Request)} - own == set(REQUEST_OPTIONS) - {"system"}
    assert {o.keyword for o in OPTIONS if o.scope == "call" or o.part} == {*CALL_OPTIONS, "model"}
    assert set(option_keywords("parameter")) <= {f.name for f in fields(Request)}


@pytest.mark.parametrize("name", ["stream", "complete"])
@pytest.mark.parametrize("owner", [nbllm, nbllm.Client()], ids=["nbllm", "Client"])
@pytest.mark.parametrize(
    ("wrong", "hint"), [("temprature", "Did you mean temperature"), ("bg", "There are system, temperature")]
)
def test_a_call_refuses_other_names(owner, name, wrong, hint):
    """Those of no option, and those of a cell; the key that stands beside them is not told."""
    with pytest.raises(nbllm.errors.ConfigError, match=f"no option '{wrong}'") as caught:
        getattr(owner, name)("Hi", "sim/openai", api_key="sk-very-secret-0001", **{wrong: 1})
    assert hint in caught.value.hint
    assert "very-secret" not in str(caught.value)


ODD = (
    *(5, -1, 10**400, float("nan"), "x", "\ud800", b"x", (), [None], {1: 2}, object(), len, 1j),
    *(np.array([1, 2]), pd.Series([1]), pd.NA, Decimal("0.1"), nbllm.Text("x"), nbllm.Message("user", "x")),
)


@pytest.mark.parametrize("name", [*CALL_OPTIONS, "model", "prompt"])
def test_an_option_of_any_type_is_taken_or_refused_in_our_words(name):
    """Nothing foreign leaves a call, whatever stands in it."""
    for value in ODD:
        given = {"prompt": "Hi", "model": "sim/openai@tokens=1,ttft=0", "timeout": 60, name: value}
        try:
            nbllm.complete(given.pop("prompt"), given.pop("model"), **given)
        except nbllm.NbllmError as error:
            assert "inside" not in str(error)  # noqa: PT017 - any may be raised, or none


@pytest.mark.parametrize("given", [None, 5, b"x", ["openai"]], ids=repr)
@pytest.mark.parametrize("call", ["models", "health", "estimate_tokens", "resource"])
def test_what_takes_text_says_so(call, given):
    """Of the functions that take a name or a text alone."""
    with pytest.raises(ConfigError, match="takes text, not"):
        getattr(nbllm, call)(given)


@pytest.mark.parametrize("given", ["openai/mini", 5, {"model": "m"}], ids=repr)
def test_a_client_is_made_of_no_model(given):
    """A mistake that is easily made, told where it is made; limits of time are taken as in a call."""
    with pytest.raises(ConfigError, match="takes a registry, not"):
        nbllm.Client(given)
    with pytest.raises(ConfigError, match="Not a time limit"):
        nbllm.Client(timeouts="soon")
    with closing(nbllm.Client(timeouts=5)) as client:
        assert 5 == client.timeouts.total


@pytest.mark.parametrize("part", [nbllm.Image, nbllm.Document])
def test_the_name_of_a_file_is_no_picture(part):
    """A mistake that is easily made: it is told where it is made, and not where it is sent."""
    with pytest.raises(TypeError, match=r"data takes bytes, not str: use Path\(...\).read_bytes"):
        part("photo.png")
    assert b"x" == part(bytearray(b"x")).data


@pytest.mark.parametrize(("parts", "names"), [((), ["api_key", "seed"]), (("parameter",), ["seed"])])
def test_what_was_chosen(parts, names):
    """As keyword arguments, those of some parts of a call, or all."""
    spec = CallSpec.of({"seed": 0, "api_key": "k", "system": None})
    assert names == sorted(spec.selected(*parts))


def test_a_run_takes_the_options_of_the_table():
    """The arguments of bench.run, apart from those that only code can give."""
    taken = set(inspect.signature(run).parameters) - {"models", "progress", "client", "disturb", "options"}
    assert taken == {o.name.removeprefix("bench.") for o in OPTIONS if o.scope == "bench"}


def test_every_field_is_an_option_and_has_help():
    """Scope, kind, help; names and short flags differ."""
    assert {f.name for f in fields(CallSpec)} == {o.keyword for o in OPTIONS if o.scope == "call" or o.part}
    assert {"call", "cell", "bench"} == {o.scope for o in OPTIONS}
    assert all(o.help for o in OPTIONS if o.kind)
    for found in ([o.name for o in OPTIONS], [o.short for o in OPTIONS if o.short]):
        assert len(found) == len(set(found))


@pytest.mark.parametrize("name", DIALECTS)
def test_a_line_knows_the_dialects_of_the_client(name):
    """Each of them, and those of installed packages."""
    line = f"m base_url=http://127.0.0.1:1 dialect={name}"
    assert name == parse(line).options["dialect"] == parse(line, DIALECTS).options["dialect"]
    assert "twin" == parse("dialect=twin", (*DIALECTS, "twin")).options["dialect"]


@pytest.mark.parametrize(
    ("wrong", "hint"), [("opnai_chat", "openai_chat"), ("OpenAI_chat", "openai_chat"), ("smtp", "anthropic")]
)
def test_a_dialect_that_nobody_knows_is_refused_by_name(wrong, hint, tmp_path, monkeypatch):
    """With the nearest, or all there are: in a cell with its column, in Python, in a provider's table."""
    with pytest.raises(nbllm.errors.ConfigError, match=rf"^Column 3: dialect .*{wrong}") as caught:
        parse(f"m dialect={wrong}", DIALECTS)
    assert hint in caught.value.message
    for ask in (
        lambda: nbllm.Client().stream("Hi", "openai/m", dialect=wrong),
        lambda: nbllm.Chat("openai/m", dialect=wrong),
        lambda: nbllm.embed(["x"], "openai/m", dialect=wrong),
        lambda: nbllm.Client().registry.register("acme", {"base_url": "https://h.example", "dialect": wrong}),
    ):
        with pytest.raises(nbllm.errors.ConfigError, match=wrong) as caught:
            ask()
        assert hint in caught.value.hint


def test_completion_offers_the_dialects_of_the_client():
    """Those that begin as what was typed."""

    class Bare:
        client = nbllm.Client()

    typed = "%%llm m dialect="
    assert set(DIALECTS) == {word for word, _ in candidates(Bare(), typed, len(typed), 0)[1]}


@pytest.mark.parametrize(
    ("typed", "offered"), [("", False), ("a", False), ("api/", True), ("api/open", True)]
)
def test_explicit_names_are_offered_where_they_are_begun(typed, offered):
    """Of what answers at an address alone."""

    class Bare:
        client = nbllm.Client()

    line = f"%%llm {typed}"
    found = {word for word, _ in candidates(Bare(), line, len(line), 0)[1]}
    assert offered == any(w.startswith("api/openai/") for w in found)
    assert not any(w.startswith("api/cli") for w in found)


def test_what_may_be_a_default():
    """What belongs to one cell may not; a project chooses no address, key or what stays running."""
    one = [
        "out",
        "def",
        "save",
        "use",
        "as",
        "schema",
        "attach",
        "dry_run",
        "chat",
        "runs",
        "key",
        "tools",
        "tool_choice",
        "failover",
        "hedge",
    ]
    one += ["each", "into", "run", "executor", "mode", "wait", "strict", "asserts"]
    expected = {n for n in line.OPTIONS if "." not in n} - set(one)
    assert expected == set(settings.DEFAULT_NAMES)
    assert {"base_url", "dialect", "key", "keep", "bg", "approve", "mode"} == {
        o.name for o in OPTIONS if not o.project
    }


def test_names_of_tools_are_completed():
    """The user's functions, what nbllm brings, servers and endpoints; after each comma anew."""

    def price(article: str) -> float:
        return 1.0

    price.__module__ = "__main__"

    class Session:
        client = nbllm.Client()
        prompt_variables = {"price": price, "df": 3, "parse": parse}
        external_tools = session.Session.external_tools

    Session.client.registry.tools["weather"] = {}
    for typed, word in (("%%llm m tools=pr", "price"), ("%%llm m tools=price,http/", "http/weather")):
        assert [(word, "tool")] == candidates(Session(), typed, len(typed), 0)[1]
    assert "python" in dict(candidates(Session(), "%%llm m tools=", 14, 0)[1])
    approving = "%%llm m tools=price approve="
    ways = ["ask", "auto", "never", "price"]
    assert ways == [name for name, _ in candidates(Session(), approving, len(approving), 0)[1]]
    assert "parse" not in dict(candidates(Session(), "%%llm m tools=", 14, 0)[1])

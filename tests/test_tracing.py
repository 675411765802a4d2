"""Spans and metrics of calls, as OpenTelemetry's own in-memory exporters have them; the simulator answers."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import nbllm
from nbllm import Client, simulator
from nbllm.client.embeddings import embed
from nbllm.client.tracing import make_tracing
from nbllm.core.errors import NbllmError
from nbllm.routing.registry import load

from .processes import comes_to

KEY = "sk-canary-0123456789abcdef"


class Watched:
    """A client whose spans and metrics are kept."""

    def __init__(self, url, **options):
        base = f"{url}/v1"
        env = {
            "OPENAI_BASE_URL": base,
            "OPENAI_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": KEY,
        }
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        meters = MeterProvider([self.reader])
        self.client = Client(load(env=env), ledger=None)
        self.client.tracing = make_tracing(tracer_provider=self.tracers, meter_provider=meters, **options)

    @property
    def spans(self):
        """By name."""
        return {s.name: s for s in self.exporter.get_finished_spans()}

    def named(self, name):
        """Those of a name, in the order in which they began."""
        found = [s for s in self.exporter.get_finished_spans() if s.name == name]
        return sorted(found, key=lambda s: s.start_time)

    def ended(self, name, number):
        """So many of a name, once they have ended."""
        assert comes_to(number, lambda: self.named(name))
        return self.named(name)

    @property
    def text(self):
        """All that was told."""
        return "".join(s.to_json() for s in self.exporter.get_finished_spans())

    def points(self):
        """(metric, attributes, sum, count)."""
        data = self.reader.get_metrics_data()
        for of in data.resource_metrics:
            for scope in of.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, dict(point.attributes), point.sum, point.count


@pytest.fixture(scope="module")
def server():
    with simulator.serve(ttft=0.0, gap=0.0) as found:
        yield found


@pytest.fixture
def watched(server):
    found = Watched(server.url)
    yield found
    found.client.close()


@pytest.fixture
def telling(server):
    found = Watched(server.url, content=True)
    yield found
    found.client.close()


def test_a_call_is_a_span_with_the_conventions_names(watched, server):
    """What was asked of whom, what it took; nothing of what was said."""
    got = watched.client.complete(
        "Say a secret word", "openai/sim", max_tokens=30, temperature=0.5, seed=7, stop="END"
    )
    (span,) = watched.spans.values()
    found = span.attributes
    assert "chat sim" == span.name
    assert "CLIENT" == span.kind.name
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "sim",
        "gen_ai.request.max_tokens": 30,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.response.model": "sim",
        "gen_ai.response.id": got.id,
        "gen_ai.response.finish_reasons": (got.finish_reason,),
        "gen_ai.usage.input_tokens": got.usage.input_tokens,
        "gen_ai.usage.output_tokens": got.usage.output_tokens,
        "server.address": "127.0.0.1",
        "server.port": int(server.url.rpartition(":")[2]),
    }
    assert expected == {n: found[n] for n in expected}
    assert "secret word" not in watched.text
    assert got.text not in watched.text
    assert KEY not in watched.text


def test_vectors_are_a_span_with_the_conventions_names(telling):
    """And no chat; numbers are not told, also where words are."""
    embed(telling.client, ["a", "b"], "openai/small", dimensions=64)
    (span,) = telling.spans.values()
    for name in ("output.messages", "request.stream", "response.time_to_first_chunk"):
        assert f"gen_ai.{name}" not in span.attributes
    assert 64 == span.attributes["gen_ai.embeddings.dimension.count"]
    assert "embeddings" == span.attributes["gen_ai.operation.name"]
    assert span.name == f"embeddings {span.attributes['gen_ai.request.model']}"


def test_metrics(watched):
    """Tokens by kind, seconds, seconds to the first token."""
    got = watched.client.complete("hello", "openai/sim")
    found = {(n, a.get("gen_ai.token.type")): (s, c, a) for n, a, s, c in watched.points()}
    assert found["gen_ai.client.token.usage", "input"][:2] == (got.usage.input_tokens, 1)
    assert found["gen_ai.client.token.usage", "output"][:2] == (got.usage.output_tokens, 1)
    total, first = (found[f"gen_ai.client.operation.{n}", None] for n in ("duration", "time_to_first_chunk"))
    assert 0 < first[0] <= total[0]
    assert total[2]["gen_ai.provider.name"] == "openai"


def test_metrics_have_the_conventions_boundaries(watched):
    """The SDK's own begin at 5, which is 5 s: every answer would be in one of them."""
    watched.client.complete("hello", "openai/sim")
    (of,) = watched.reader.get_metrics_data().resource_metrics
    (found,) = of.scope_metrics
    bounds = {m.name.rpartition(".")[2]: m.data.data_points[0].explicit_bounds for m in found.metrics}
    assert (1, 4, 16, 67_108_864) == (*bounds["usage"][:3], bounds["usage"][-1])
    for name in ("duration", "time_to_first_chunk"):
        assert (0.01, 0.02, 0.04, 0.08, 81.92) == (*bounds[name][:4], bounds[name][-1])


def test_content_where_it_is_asked_for(telling):
    """As the conventions write messages; a key that stands in them is masked."""
    got = telling.client.complete(f"hello {KEY}", "openai/sim", system="Be brief.")
    (span,) = telling.spans.values()
    said = {
        n: json.loads(span.attributes[f"gen_ai.{n}"])
        for n in ("input.messages", "output.messages", "system_instructions")
    }
    assert "user" == said["input.messages"][0]["role"]
    assert said["input.messages"][0]["parts"][0]["content"].startswith("hello ")
    assert [{"type": "text", "content": "Be brief."}] == said["system_instructions"]
    assert {"type": "text", "content": got.text} == said["output.messages"][0]["parts"][0]
    assert "stop" == said["output.messages"][0]["finish_reason"]
    assert KEY not in telling.text


def test_an_error_has_its_type_and_no_traceback(watched):
    """And no key, whatever the provider repeats."""
    with pytest.raises(NbllmError) as caught:
        watched.client.complete("hello", "openai/sim@auth=right", retries=0)
    (span,) = watched.spans.values()
    assert StatusCode.ERROR == span.status.status_code
    assert type(caught.value).__name__ == span.attributes["error.type"]
    assert not span.events
    assert KEY not in watched.text
    assert "AuthenticationError" in [a.get("error.type") for _, a, _, _ in watched.points()]


def test_each_model_that_is_asked_in_turn_is_a_span(watched):
    """The one that fails and the one that answers."""
    watched.client.complete("hello", "openai/sim@auth=right|anthropic/sim", retries=0)
    names = [s.attributes["gen_ai.provider.name"] for s in watched.exporter.get_finished_spans()]
    assert ["openai", "anthropic"] == names


@pytest.mark.parametrize("fixture", ["watched", "telling"])
def test_tools_are_children_of_their_answer(request, fixture):
    """An agent's span, its calls and its tools; arguments and results only where content is asked for."""
    found = request.getfixturevalue(fixture)

    def weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny-{city}"

    found.client.complete(
        "What is the weather in Oslo?", "openai/sim@tools=1", tools=[weather], approve="auto"
    )
    spans = found.spans
    agent, tool = spans["invoke_agent sim@tools=1"], spans["execute_tool weather"]
    own = agent.context.span_id
    chats = [s for s in found.exporter.get_finished_spans() if s.name.startswith("chat")]
    assert 2 <= len(chats)
    assert {own} == {s.parent.span_id for s in (*chats, tool)}
    assert "invoke_agent" == agent.attributes["gen_ai.operation.name"]
    assert "execute_tool" == tool.attributes["gen_ai.operation.name"]
    assert "weather" == tool.attributes["gen_ai.tool.name"]
    assert chats[0].start_time <= tool.start_time <= tool.end_time <= agent.end_time
    assert ("sunny-" in found.text) is (fixture == "telling")
    if fixture == "telling":
        assert json.loads(tool.attributes["gen_ai.tool.call.result"]).startswith("sunny-")


def test_rows_are_children_of_their_run(watched, monkeypatch, tmp_path):
    """Whatever span the user has open is above it."""
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    with watched.tracers.get_tracer("user").start_as_current_span("mine"):
        nbllm.map(
            pd.DataFrame({"t": list("abc")}), "say {t}", model="openai/sim", client=watched.client, run="r"
        )
    spans = watched.spans
    rows = spans["rows r"]
    assert rows.parent.span_id == spans["mine"].context.span_id
    chats = [s for s in watched.exporter.get_finished_spans() if s.name.startswith("chat")]
    assert [rows.context.span_id] * 3 == [s.parent.span_id for s in chats]
    assert 3 == rows.attributes["nbllm.rows"]


@pytest.mark.parametrize(("options", "below"), [({}, "invoke_agent sim"), ({"compact": "off"}, "chat sim")])
def test_a_turn_of_a_conversation_is_a_span_above_its_calls(watched, options, below):
    """With the conversation's own id and its number; what the user has open is above it."""
    chat = nbllm.Chat("openai/sim", client=watched.client, **options)
    with watched.tracers.get_tracer("user").start_as_current_span("mine") as mine:
        chat("one")
        chat("two")
    other = chat.fork()
    other("three")
    turns = watched.ended("turn", 3)
    assert [1, 2, 3] == [t.attributes["nbllm.turn"] for t in turns]
    first, second, forked = (t.attributes["gen_ai.conversation.id"] for t in turns)
    assert first == second != forked
    assert [mine.context.span_id] * 2 == [t.parent.span_id for t in turns[:2]]
    assert turns[2].parent is None
    under = watched.named(below)
    assert [t.context.span_id for t in turns] == [s.parent.span_id for s in under]
    assert all(
        t.start_time <= s.start_time <= s.end_time <= t.end_time for t, s in zip(turns, under, strict=True)
    )


@pytest.mark.parametrize("way", ["refused", "wrong", "stopped"])
def test_a_turn_that_comes_to_nothing_ends_its_span(watched, way):
    """With the error's type, and no key; what the user stopped is no error."""
    model = {
        "refused": "openai/sim@auth=right",
        "wrong": "openai/sim",
        "stopped": "openai/sim@gap=5,tokens=9",
    }
    chat = nbllm.Chat(model[way], client=watched.client, retries=0)
    if way == "stopped":
        chat.stream("hello").cancel()
    else:
        with pytest.raises(NbllmError):
            chat("hello", **({"schema": 7} if way == "wrong" else {}))
    (turn,) = watched.ended("turn", 1)
    kinds = {"refused": "AuthenticationError", "wrong": "ConfigError", "stopped": None}
    assert kinds[way] == turn.attributes.get("error.type")
    assert (way == "stopped") is turn.attributes.get("nbllm.stopped", False)
    assert KEY not in watched.text


def test_rows_that_an_executor_sends_are_children_of_their_run(watched, server, monkeypatch, tmp_path):
    """As those that are sent from here: one call a row, and none more on the workers."""
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    df = pd.DataFrame({"t": list("abc")})
    with ThreadPoolExecutor(2) as pool:
        url = f"{server.url}/v1"
        nbllm.map(df, "say {t}", model="m", base_url=url, client=watched.client, run="r", executor=pool)
    (rows,) = watched.named("rows r")
    assert [rows.context.span_id] * 3 == [s.parent.span_id for s in watched.named("chat m")]


def test_a_stopped_call_is_no_error(server):
    """It says that it was stopped."""
    found = Watched(server.url)
    stream = found.client.stream("hello", "openai/sim@gap=0.2,tokens=500")
    next(iter(stream.text_stream))
    stream.cancel()
    stream.partial()
    ended = threading.Event()
    stream.on_end = lambda _: ended.set()
    assert stream.done or ended.wait(30)
    (span,) = found.spans.values()
    assert StatusCode.UNSET == span.status.status_code
    assert span.attributes["nbllm.stopped"]
    found.client.close()


def test_measured_calls_are_not_traced(server):
    """A benchmark's time is the provider's."""
    found = Watched(server.url)
    found.client.paced = False
    found.client.complete("hello", "openai/sim")
    assert not found.spans
    found.client.close()


@pytest.mark.parametrize(
    ("env", "config", "content"),
    [
        ({}, "", None),
        ({"NBLLM_OTEL": "0"}, "otel = true\n", None),
        ({"NBLLM_OTEL": "1"}, "", False),
        ({"NBLLM_OTEL": "content"}, "", True),
        ({}, "otel = true\n", False),
    ],
)
def test_who_turns_it_on(server, tmp_path, env, config, content):
    """The environment, or the user's own file; content is asked for by name."""
    from nbllm.routing.config import Places

    file = tmp_path / "providers.toml"
    file.write_text(config, "utf-8")
    env = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY, **env}
    client = Client(load(env=env, places=Places(file, None, None)), ledger=None)
    client.complete("hello", "openai/sim")
    assert content == (client.tracing and client.tracing.content)
    client.close()


def test_a_project_does_not_turn_it_on(tmp_path):
    """Nor does it send anybody's prompts anywhere."""
    from nbllm.routing.config import Places

    file = tmp_path / "pyproject.toml"
    file.write_text("[tool.nbllm]\notel = true\n", "utf-8")
    found = load({}, Places(tmp_path / "none.toml", tmp_path))
    assert not found.otel


@pytest.mark.slow
def test_nothing_is_loaded_before_it_is_turned_on():
    """And without the package it says how to get it."""
    code = (
        "import sys, nbllm; nbllm.default_client()\n"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry')]\n"
        "sys.modules['opentelemetry'] = None\n"
        "try: nbllm.trace()\n"
        "except nbllm.errors.ConfigError as e: print(e.hint)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert "nbllm[otel]" in ran.stdout

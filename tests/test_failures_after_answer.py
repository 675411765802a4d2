"""No failure after the last byte of an answer loses it: it is in _llm and out=, the cell ends, and one line
reports the failure."""

import json

import pytest

from .kernels import Kernel
from .test_structured import canned  # noqa: F401 - a fixture

pytestmark = pytest.mark.kernel
ODD = '{"items": [{"t": "2024-01-01T10:00:00+01:00"}, {"t": "2024-07-01T10:00:00+02:00"}]}'
GOOD = '{"name": "Oslo"}'
WAIT = (
    "import threading\n[t.join(30) for t in threading.enumerate() if t.name in ('nbllm-background', "
    "'nbllm-chat')]\nassert not [t for t in threading.enumerate() if t.name in ('nbllm-background', "
    "'nbllm-chat')]"
)
PREPARE = """
import pydantic, sys
class Raises(pydantic.BaseModel):
    name: str
    @pydantic.field_validator("name")
    @classmethod
    def check(cls, value):
        raise problem
def deep(n=0):
    return deep(n + 1)
class Deep(pydantic.BaseModel):
    name: str
    @pydantic.field_validator("name")
    @classmethod
    def check(cls, value):
        return deep()
def hook(message):  # what an extension may do with displays: these fail on the final form
    if "nbllm" in message["content"].get("metadata", {}):
        raise problem
    return message
"""


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        assert kernel.run(PREPARE).ok
        yield kernel


@pytest.fixture(scope="module")
def headless():
    with Kernel(front_end=False) as kernel:
        assert kernel.run(PREPARE).ok
        yield kernel


@pytest.fixture(params=["live", "headless"])
def either(request, kernel, headless):
    """A kernel that somebody watches, and one that nobody does."""
    return kernel if request.param == "live" else headless


def forget(kernel):
    kernel.run("r = _llm = None")


def one_line(ran, kind):
    """The cell failed with one of our errors, in a line and what to do."""
    assert kind == ran.error["ename"], ran.error
    assert 1 <= len(ran.error["traceback"]) <= 3
    return "\n".join(ran.error["traceback"])


TEXTS = [
    ("t date", ODD),
    ("t date", '{"items": [{"t": "2024-02-30"}, {"t": "2024-02-03"}]}'),
    ("t date", '{"items": [{"t": "2024-01-01T99:99"}]}'),
    ("t date", '{"items": [{"t": "2024-01-01T00:00:00Z"}, {"t": "2024-01-01"}]}'),
    ("t date", '{"items": [{"t": "0000-00-00"}]}'),
    ("t int", '{"items": [{"t": 10000000000000000000000000000000000000001}, {"t": 1}]}'),
]


@pytest.mark.parametrize(("fields", "answer"), TEXTS)
def test_what_cannot_be_converted_stays_as_it_is(either, canned, fields, answer):  # noqa: F811
    """No value becomes NaT or is lost; the output says which column stays text."""
    forget(either)
    url, _ = canned(answer)
    ran = either.run(f'%%llm m base_url={url} schema="[{fields}]" as=df out=r\nx')
    assert ran.ok, ran.error
    assert either.value("_llm.text") == answer
    assert [str(row["t"]) for row in json.loads(answer)["items"]] == either.value("[str(v) for v in r['t']]")
    assert ["object", True] == either.value("[str(r['t'].dtype), not r['t'].isna().any()]")
    if "int" not in fields:
        assert "Column t stays text: " in ran.text
        assert "Column t stays text: " in ran.html
    assert 1 == len(ran.outputs)


PROBLEMS = [
    "KeyError('x')",
    "ZeroDivisionError()",
    "TypeError('a\\nb')",
    "RecursionError('deep')",
    "MemoryError()",
    "OSError(5, 'x')",
    "SystemExit(3)",
    "GeneratorExit()",
]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_validator_that_raises(either, canned, problem):  # noqa: F811
    """The answer is in both variables and in the error."""
    forget(either)
    url, bodies = canned(GOOD)
    either.run(f"problem = {problem}")
    ran = either.run(f"%%llm m base_url={url} schema=Raises as=object out=r\nx")
    told = one_line(ran, "AnswerProcessingError")
    assert problem.partition("(")[0] in told
    assert "_llm" in told
    assert [GOOD, GOOD, GOOD] == either.value(
        "[_llm.text, r.text, __import__('sys').last_value.partial.text]"
    )
    assert GOOD.strip("{}") in ran.text
    assert 1 == len(bodies)


def test_a_validator_without_end(either, canned):  # noqa: F811
    """A real recursion."""
    forget(either)
    url, _ = canned(GOOD)
    one_line(either.run(f"%%llm m base_url={url} schema=Deep as=df out=r\nx"), "AnswerProcessingError")
    assert GOOD == either.value("r.text")


@pytest.mark.parametrize(
    "options", ["", "render=final", "render=plain", "format=json", 'schema="name" as=df', "chat=drawing"]
)
def test_a_drawing_that_fails(either, canned, options):  # noqa: F811
    """The front end's channel raises for the final form."""
    forget(either)
    url, _ = canned(GOOD)
    either.run("problem = ValueError('no display')\nget_ipython().display_pub.register_hook(hook)")
    ran = either.run(f"%%llm m base_url={url} out=r {options}\nx")
    either.run("get_ipython().display_pub.unregister_hook(hook)")
    assert "no display" in one_line(ran, "AnswerProcessingError")
    assert GOOD == either.value("_llm.text")
    assert either.value("r is not None")
    if "chat" in options:
        assert [GOOD] == either.value(
            "[t.response.text for t in get_ipython()._nbllm_session.chats.get('drawing').turns]"
        )
        either.run("%llm chat clear drawing")


def test_columns_whose_drawing_fails(either, canned):  # noqa: F811
    """All answers are kept."""
    forget(either)
    url, _ = canned("Alpha", "Beta")
    either.run("problem = ValueError('no display')\nget_ipython().display_pub.register_hook(hook)")
    ran = either.run(f"%%llm m base_url={url} runs=2 out=r\nx")
    either.run("get_ipython().display_pub.unregister_hook(hook)")
    assert "no display" in one_line(ran, "AnswerProcessingError")
    assert ["Alpha", "Beta"] == either.value("sorted(x.text for x in r)")


def test_a_page_that_fails_while_the_answer_comes(kernel):
    """Every message of a display raises: the answer is waited for all the same."""
    forget(kernel)
    kernel.run(
        "def broken(message):\n    raise OSError('gone')\nget_ipython().display_pub.register_hook(broken)"
    )
    one = kernel.run("%%llm sim/openai@tokens=60,gap=0.005 out=r\nx")
    several = kernel.run("%%llm sim/openai@tokens=60,gap=0.005 runs=2 out=both\nx")
    kernel.run("%%llm sim/openai@tokens=60,gap=0.005 bg=true out=later\nx")
    kernel.run("get_ipython().display_pub.unregister_hook(broken)")
    assert kernel.run(WAIT).ok
    assert "gone" in one_line(one, "AnswerProcessingError")
    assert not several.ok
    assert ["stop", "stop", True] == kernel.value("[r.finish_reason, later.finish_reason, len(both) == 2]")


HUGE = str(10**400)
COUNTS = '{"prompt_tokens": 3, "completion_tokens": 4, "cost": COST}'
FIGURES = [
    *(COUNTS.replace("COST", cost) for cost in ("NaN", "1e999", HUGE, "-1e300")),
    COUNTS.replace("3", HUGE).replace("4", HUGE),
    COUNTS.replace("3", "1e999"),
]
ANSWER = (
    '{"id": "1", "object": "chat.completion", "model": "m", "usage": USAGE, "choices": [{"index": 0, '
    '"finish_reason": "stop", "message": '
    '{"role": "assistant", "content": "The words."}}]}'
)


@pytest.mark.parametrize("usage", FIGURES)
def test_figures_that_are_no_figures(either, raw, usage):
    """A provider's odd counts and costs cost no word, in a cell, in columns and in Python."""
    forget(either)
    url = raw(ANSWER.replace("USAGE", usage))
    ran = either.run(f"%%llm m base_url={url} out=r retries=0\nx")
    columns = either.run(f"%%llm m base_url={url} runs=2 out=two retries=0\nx")
    if ran.ok:  # whether such a number can be read is the decoder's matter
        assert "The words." == either.value("r.text")
        assert "The words." in ran.text
        assert columns.ok, columns.error
        assert 2 == columns.text.count("The words.")
    assert ran.ok or ran.error["ename"] in ("ProtocolError", "StreamCut"), ran.error


def test_code_that_cannot_be_offered(kernel, canned):  # noqa: F811
    """format=code: the front end takes no next cell."""
    forget(kernel)
    url, _ = canned("```python\nx = 1\n```")
    kernel.run(
        "def refuse(*_, **__):\n    raise RuntimeError('no cells here')\nbefore, "
        "get_ipython().set_next_input = get_ipython().set_next_input, refuse"
    )
    ran = kernel.run(f"%%llm m base_url={url} format=code out=r\nx")
    kernel.run("get_ipython().set_next_input = before")
    assert "no cells here" in one_line(ran, "AnswerProcessingError")
    assert "x = 1" in kernel.value("r.text")


@pytest.mark.parametrize("options", ["schema=Raises as=object", "schema=Raises as=df", "", "runs=2"])
def test_stop_after_the_answer(either, canned, options):  # noqa: F811
    """An interrupt while the answer is checked or drawn: it is kept, and the cell is one that was stopped."""
    forget(either)
    url, _ = canned(GOOD, GOOD)
    either.run(
        "problem = KeyboardInterrupt()"
        + ("" if "schema" in options else "\nget_ipython().display_pub.register_hook(hook)")
    )
    ran = either.run(f"%%llm m base_url={url} out=r {options}\nx")
    either.run("get_ipython().display_pub.unregister_hook(hook)")
    assert "is in r" in one_line(ran, "Stopped")
    assert GOOD == either.value("r[0].text" if "runs" in options else "r.text")
    assert "Stopped. The answer is in r." in str(ran.error) or "runs" in options


def test_a_real_signal_while_an_answer_is_checked(kernel, canned):  # noqa: F811
    """Pressed once, the check ends first; pressed twice, it is left."""
    kernel.run(
        "import os, signal, time\ndef press(times):\n    def check(cls, value):\n        for _ in "
        "range(times):\n            os.kill(os.getpid(), signal.SIGINT)\n"
        "        return value\n    return check"
    )
    for times in (1, 2):
        forget(kernel)
        url, _ = canned(GOOD)
        kernel.run(
            f"class Pressed(pydantic.BaseModel):\n    name: str\n    check = "
            f"pydantic.field_validator('name')(classmethod(press({times})))"
        )
        ran = kernel.run(f"%%llm m base_url={url} schema=Pressed as=object out=r\nx")
        one_line(ran, "Stopped")
        assert GOOD == kernel.value("_llm.text")
        assert kernel.value("r is not None")
        assert kernel.run("1").ok


def test_a_repair_that_fails_leaves_the_first_answer(either, canned):  # noqa: F811
    """It is asked for once more and nothing comes: the one that does not fit is still there."""
    forget(either)
    url, bodies = canned('{"name": 7}')  # the second request finds nothing to send
    ran = either.run(f'%%llm m base_url={url} schema="name" out=r retries=0\nx')
    assert not ran.ok
    assert 2 == len(bodies)
    assert ['{"name": 7}', '{"name": 7}'] == either.value(
        "[r.text, __import__('sys').last_value.partial.text]"
    )
    assert '{"name":7}' in "".join(ran.text.split())
    assert 1 == len(ran.outputs) - 1


@pytest.mark.parametrize(
    "options", ["schema=Raises as=object", "schema=Raises as=df", "schema=Deep as=object"]
)
def test_in_the_background(kernel, canned, options):  # noqa: F811
    """The variable, the display and %llm stop end; the cell's display says why in a line."""
    for problem in ("KeyError('x')", "SystemExit(3)", "KeyboardInterrupt()"):
        forget(kernel)
        url, _ = canned(GOOD)
        kernel.run(f"problem = {problem}")
        kernel.others.clear()
        ran = kernel.run(f"%%llm m base_url={url} bg=true out=r {options}\nx")
        kernel.others += ran.messages
        assert kernel.run(WAIT).ok
        ran = kernel.run("1")
        assert ["Response", GOOD, GOOD] == kernel.value("[type(r).__name__, r.text, _llm.text]")
        assert "Nothing runs in the background" in str(kernel.run("%llm stop").error)
        last = [m for m in kernel.others if m["msg_type"] in ("display_data", "update_display_data")][-1][
            "content"
        ]["data"]["text/plain"]
        assert '{"name":"Oslo"}' in "".join(last.split())
        assert "Error: The " in last


def test_a_dataframe_in_the_background(kernel, canned):  # noqa: F811
    """As in the foreground: what cannot be converted stays text."""
    url, _ = canned(ODD)
    kernel.run(f'%%llm m base_url={url} bg=true schema="[t date]" as=df out=r\nx')
    assert kernel.run(WAIT).ok
    assert ["object", 2] == kernel.value("[str(r['t'].dtype), len(r)]")
    assert ODD == kernel.value("_llm.text")


def test_a_misfit_in_the_background_is_asked_for_once_more(kernel, canned):  # noqa: F811
    """As in the foreground, and the second answer counts."""
    url, bodies = canned('{"name": 7}', GOOD)
    kernel.run(f'%%llm m base_url={url} bg=true schema="name" as=object out=r\nx')
    assert kernel.run(WAIT).ok
    assert [{"name": "Oslo"}, GOOD] == kernel.value("[r, _llm.text]")
    assert 2 == len(bodies)


def test_functions(either, canned):  # noqa: F811
    """def=: the error carries the answer, and the notebook has it."""
    forget(either)
    url, _ = canned(GOOD, GOOD, GOOD)
    either.run("problem = KeyError('x')")
    assert either.run(f"%%llm m base_url={url} schema=Raises as=object def=f\nOf {{a}}.").ok
    ran = either.run("f('x')")
    assert "AnswerProcessingError" == ran.error["ename"]
    assert [GOOD, GOOD] == either.value("[_llm.text, __import__('sys').last_value.partial.text]")
    forget(either)
    either.run("problem = KeyboardInterrupt()\ntry:\n    f('x')\nexcept KeyboardInterrupt:\n    pass")
    assert GOOD == either.value("_llm.text")


NO_SCHEMAS = [
    '{"type": "strng"}',
    '{"type": ["string", "nul"]}',
    '{"properties": {"a": {"$ref": "#/$defs/x"}}}',
    '{"$ref": "https://127.0.0.1:1/x.json"}',
    '{"properties": {"a": {"pattern": "("}}}',
    '{"patternProperties": {"[": {}}}',
    '{"required": "a"}',
    '{"properties": []}',
    '{"minLength": -1}',
    '{"$ref": "#"}',
    '{"items": {"properties": {"b": {"allOf": [{"$ref": "#/items/properties/b"}]}}}}',
    '{"$schema": 5}',
    '{"enum": "a"}',
    '{"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {"type": "nope"}}}',
    '{"not": {"anyOf": [{"$ref": "#/nowhere"}]}}',
]


@pytest.mark.parametrize("schema", NO_SCHEMAS)
def test_a_schema_that_is_none_is_refused_before_anything_is_sent(kernel, canned, schema):  # noqa: F811
    """In a cell, with def=, with several models, in the background, in Python; with its place."""
    url, bodies = canned(GOOD)
    kernel.run(f"bad = {json.loads(schema)!r}")
    kernel.run(
        "def refused(call):\n    try:\n        call()\n    except nbllm.errors.ConfigError as e:\n        "
        "return '$' in e.message and bool(e.hint)"
    )
    for line in (
        f"m base_url={url} schema={schema}",
        f"m base_url={url} schema=bad as=df",
        f"m base_url={url} schema=bad def=f",
        f"m,n base_url={url} schema=bad",
        f"m base_url={url} bg=true schema=bad out=r",
        f"m base_url={url} runs=2 schema=bad",
    ):
        ran = kernel.run(f"%%llm {line}\nWhat of {{a}}?" if "def=" in line else f"%%llm {line}\nWhat?")
        assert "schema" in one_line(ran, "ConfigError"), line
    for call in (
        "nbllm.stream('x', 'm', base_url=url, schema=bad)",
        "nbllm.complete('x', 'm', base_url=url, schema=bad)",
    ):
        assert kernel.value(f"refused(lambda url={url!r}: {call})"), call
    assert [] == bodies


@pytest.mark.parametrize(
    "value", ["[1]", "7", "True", "{1: {2}}", "{'maximum': float('nan')}", "{'const': {1, 2}}"]
)
def test_what_is_no_json_object_is_no_schema(kernel, canned, value):  # noqa: F811
    """A list, a number, a set within."""
    url, bodies = canned(GOOD)
    kernel.run(f"bad = {value}")
    assert "chema" in one_line(kernel.run(f"%%llm m base_url={url} schema=bad\nx"), "ConfigError")
    assert "ConfigError" == kernel.run(f"nbllm.stream('x', 'm', base_url={url!r}, schema=bad)").error["ename"]
    assert [] == bodies


def test_a_schema_nested_without_end_is_refused(kernel, canned):  # noqa: F811
    """As JSON on the line, and as a variable."""
    url, bodies = canned(GOOD)
    deep = '{"items":' * 4000 + "{}" + "}" * 4000
    assert "schema" in one_line(kernel.run(f"%%llm m base_url={url} schema={deep}\nx"), "ConfigError")
    kernel.run("bad = {}\nfor _ in range(5000):\n    bad = {'items': bad}")
    one_line(kernel.run(f"%%llm m base_url={url} schema=bad\nx"), "ConfigError")
    assert [] == bodies


@pytest.fixture
def raw():
    """A server that answers every request with the same JSON text: raw(text) -> address."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    servers = []

    def start(text):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()

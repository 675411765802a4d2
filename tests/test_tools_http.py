"""HTTP endpoints as tools: where values of a model may go, what comes back, where nothing is sent."""

import asyncio
import ipaddress
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.client.client import Client
from nbllm.core.addresses import is_public, parse
from nbllm.core.calls import HttpCall, Secret, Trace
from nbllm.core.errors import ConfigError, ConnectFailed, NbllmError, Timeout
from nbllm.core.messages import Image
from nbllm.http.prepared_request import PreparedRequest
from nbllm.http.transport import HttpTransport
from nbllm.tools.http import LIMIT, HttpTool, from_table
from nbllm.tools.results import NO_VALUE, describe_error, to_content
from nbllm.tools.usable import ToolArgumentsError

from .listeners import Listener

API = "https://api.example.com/v1"
CANARY = "canary-4711-secret"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 30


def tool(url, **more):
    return HttpTool("weather", url, **more)


def ask(made, arguments):
    """A call on a loop of its own, as the engine runs it; what a model reads."""

    async def run():
        transport = HttpTransport()
        usable = made.usable(lambda: transport)
        try:
            return to_content(await usable.call(usable.validate(arguments)))
        finally:
            await transport.close()

    return asyncio.run(run())


LISTS = {"properties": {"tags": {"type": "array"}, "n": {"type": "integer"}, "on": {"type": "boolean"}}}


@pytest.mark.parametrize(
    ("url", "arguments", "sent"),
    [
        ("/{city}", {"city": "Köln"}, "/K%C3%B6ln"),
        ("/{city}", {"city": "a/b?c#d&e=f%2e"}, "/a%2Fb%3Fc%23d%26e%3Df%252e"),
        ("/{a}-{b}/x", {"a": "1", "b": "2"}, "/1-2/x"),
        ("/x?q={q}&units=metric", {"q": "a&b=c #"}, "/x?q=a%26b%3Dc%20%23&units=metric"),
        ("/x?q={q}&u={u}", {"u": "1"}, "/x?u=1"),
        ("/x?at={a},{b}", {"a": "1", "b": "2"}, "/x?at=1,2"),
        ("/x?q={q}", {"q": "\ud83d\r\nHost: evil"}, "/x?q=%3F%0D%0AHost%3A%20evil"),
        ("/x", {}, "/x"),
    ],
)
def test_values_are_encoded_into_their_places(url, arguments, sent):
    """So that none can leave its segment or its value."""
    assert API + sent == tool(API + url).request(arguments).url


@pytest.mark.parametrize(
    ("method", "url", "arguments", "sent", "body"),
    [
        ("GET", "/x?t={tags}", {"tags": ["a", "b"]}, "/x?t=a&t=b", {}),
        ("GET", "/x", {"n": 3, "on": True, "tags": None}, "/x?n=3&on=true", {}),
        ("DELETE", "/x?a=b", {"n": 3}, "/x?a=b&n=3", {}),
        ("POST", "/{n}", {"n": 3, "on": False, "tags": [1]}, "/3", {"on": False, "tags": [1]}),
        ("PUT", "/x?n={n}", {"n": 3}, "/x?n=3", {}),
    ],
)
def test_what_has_no_place_goes_into_query_or_body(method, url, arguments, sent, body):
    """By the method."""
    call = tool(API + url, schema=LISTS, method=method).request(arguments)
    assert (API + sent, method, body) == (call.url, call.method, call.body)


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_text_reaches_another_place(segment, value):
    """Origin, number of segments and names in the query stay what the user wrote."""
    made = tool(API + "/{segment}/end?value={value}")
    try:
        call = made.request({"segment": segment, "value": value})
    except ToolArgumentsError:
        return
    assert str(parse(API)) == str(parse(call.url)) == str(PreparedRequest(call).address)
    path, _, query = str(PreparedRequest(call).request.url).removeprefix(API).partition("?")
    assert path.count("/") == 2
    assert path.endswith("/end")
    assert query.startswith("value=")
    assert not {"&", "#"} & set(query)


@pytest.mark.parametrize("value", ["", ".", "..", "../x", "x/../y", "..\\x", "a/..;b", "..;/x"])
def test_a_path_that_climbs_is_refused(value):
    """Also where a server would decode the slash."""
    with pytest.raises(ToolArgumentsError, match="is not allowed in a path"):
        tool(API + "/files/{name}").request({"name": value})
    with pytest.raises(ToolArgumentsError, match="name: Field required"):
        tool(API + "/files/{name}").request({})


def test_an_address_that_is_too_long():
    """Is the model's error."""
    with pytest.raises(ToolArgumentsError, match="8,000"):
        tool(API + "?q={q}").request({"q": "x" * 9_000})


@pytest.mark.parametrize(
    ("url", "more", "words"),
    [
        ("https://{host}/x", {}, "in its host"),
        ("{scheme}://a.test/x", {}, "no valid URL"),
        ("https://u:p@a.test/x", {}, "in its host"),
        ("ftp://a.test/x", {}, "http"),
        ("http://a.test/x", {}, "without https"),
        ("http://8.8.8.8/x", {}, "without https"),
        ("http://169.254.169.254/latest", {}, "without https"),
        ("http://[::ffff:169.254.169.254]/latest", {}, "without https"),
        ("/x", {}, "no valid URL"),
        ("https://a.test/x#y", {}, "no valid URL"),
        ("https://a.test/x y", {}, "space"),
        ("https://a.test/{x", {}, "braces"),
        ("https://a.test/?{k}=v", {}, "braces"),
        ("https://a.test/{}", {"schema": {"properties": {"a": {}}}}, "no argument ''"),
        ("https://a.test/{b}", {"schema": {"properties": {"a": {}}}}, "no argument 'b'"),
        ("https://a.test/", {"schema": {"type": "array"}}, "not an object"),
        ("https://a.test/", {"schema": {"type": "strng"}}, "not valid"),
        ("https://a.test/", {"method": "TRACE"}, "no method"),
        ("https://a.test/", {"timeout": 0}, "invalid timeout"),
        ("https://a.test/{}", {}, "not a name"),
        ("https://a.test/{a:.2f}", {}, "not a name"),
        (5, {}, "wrong 'url'"),
        ("https://a.test/", {"schema": 5}, "wrong 'schema'"),
        ("https://a.test/", {"timeout": "5"}, "wrong 'timeout'"),
        ("https://a.test/", {"headers": {"x": 5}}, "not text"),
        ("https://a.test/", {"headers": "x: y"}, "wrong 'headers'"),
        ("https://a.test/", {"budget": None}, "wrong 'budget'"),
        ("https://a.test/", {"headers": {"x": Secret("k", origin="https://b.test")}}, "not sent to"),
    ],
)
def test_what_is_no_tool(url, more, words):
    """Is told before anything is sent."""
    with pytest.raises(ConfigError, match=words):
        tool(url, **more)


def test_the_schema_that_a_model_is_told():
    """Closed, what the path needs required; by default text for every place."""
    usable = tool(API + "/{city}?u={units}").usable(HttpTransport)
    assert usable.tool.parameters == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "units": {"type": "string"}},
        "additionalProperties": False,
        "required": ["city"],
    }
    assert ("weather", "engine", "http/weather") == (usable.tool.name, usable.where, usable.source)
    for wrong in ({}, {"city": 3}, {"city": "a", "admin": "1"}):
        with pytest.raises(ToolArgumentsError):
            usable.validate(wrong)


@pytest.mark.parametrize(
    ("status", "page", "kind", "read"),
    [
        (200, b'{"t": 3}', "application/json", '{"t": 3}'),
        (200, b"", "text/plain", NO_VALUE),
        (200, PNG, "image/png", (Image(PNG),)),
        (200, b"\0\xff\xfe", "application/octet-stream", "(3 bytes, no text)"),
        (200, "ü".encode("latin-1"), "text/plain", "�"),
        (200, "ü".encode("latin-1"), "text/plain; charset=ISO-8859-1", "ü"),
        (200, "ü".encode("utf-16"), 'application/json; Charset = "utf-16"', "ü"),
        (200, "ü".encode(), "text/plain; charset=nowhere", "ü"),
        (200, b"abc", "text/plain; charset=base64", "abc"),
        (200, b"abc", "text/plain; charset=undefined", "abc"),
        (
            404,
            b'{"error":\n "no such city"}',
            "application/json",
            'failed: HTTP 404: {"error": "no such city"}',
        ),
        (500, b"x" * 5000, "text/html", "failed: HTTP 500: " + "x" * 500),
        (304, b"", "text/plain", "failed: HTTP 304"),
    ],
)
def test_answers(status, page, kind, read):
    """Text as it is, pictures as pictures, errors in one line."""
    with Listener((status, page)) as server:
        server.more = {"content-type": kind}
        try:
            got = ask(tool(server.url + "/{city}"), {"city": "a b"})
        except NbllmError as error:
            got = describe_error(error)
    assert read == got
    assert server.seen[0][0].startswith("GET /a%20b HTTP")


def test_a_body_is_json():
    """Of a POST, with the headers of the user."""
    with Listener((200, b"ok")) as server:
        made = tool(server.url, schema=LISTS, method="POST", headers={"X-Key": Secret(CANARY)})
        assert ask(made, {"n": 3}) == "ok"
    ((line, headers, body),) = server.seen
    assert (line, body) == ("POST / HTTP/1.1", '{"n":3}')
    assert CANARY in headers
    assert CANARY not in repr(made) + repr(made.request({})) + str(made.usable(HttpTransport))


def test_a_large_answer_is_cut():
    """After a mebibyte, and that is said; a large picture is not sent in part."""
    with Listener((200, b"x" * (LIMIT + 5))) as server:
        assert ask(tool(server.url, budget=10**7), {}).startswith("xxx")
        transport_page = PNG + b"\0" * LIMIT
        server.answer, server.more = (200, transport_page), {"content-type": "image/png"}
        assert ask(tool(server.url), {}) == "(image/png of more than 1,048,576 bytes)"


@pytest.mark.slow
def test_an_answer_that_does_not_come():
    """Ends at its limit."""
    release = threading.Event()

    def page(_handler):
        release.wait(30)
        return b"late"

    with Listener((200, page)) as server:
        with pytest.raises(Timeout, match=r"within 0\.2 s"):
            ask(tool(server.url, timeout=0.2), {})
        release.set()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://169.254.169.254/latest", "redirects to http://169.254.169.254, which"),
        ("https://evil.test/?x", "redirects to https://evil.test, which"),
        ("//evil.test/", "redirects to http://evil.test, which"),
        ("http://[::1", "which is not followed"),
        ("/again", "more than 3 times"),
    ],
)
def test_redirects_stay_within_the_origin(location, words):
    """No key, no request goes elsewhere."""
    with Listener((302, b"")) as server:
        server.more = {"location": location}
        with pytest.raises(NbllmError, match=words):
            ask(tool(server.url, headers={"x-key": Secret(CANARY)}), {})
    assert len(server.seen) == (4 if location == "/again" else 1)


def test_a_redirect_within_the_origin_is_followed():
    """Of a GET."""
    with Listener((302, b"")) as server:

        def page(_handler):
            server.answer = (200, b"there")
            return b""

        server.answer, server.more = (302, page), {"location": "/new"}
        assert ask(tool(server.url + "/old"), {}) == "there"
    assert ["/old", "/new"] == [line.split()[1] for line, _, _ in server.seen]


@pytest.mark.parametrize("status", [200, 400])
def test_a_key_that_a_server_sends_back_does_not_reach_the_model(status):
    """Neither as a result nor in an error."""
    with Listener((status, lambda h: f"you sent {h.headers['authorization']}".encode())) as server:
        made = tool(server.url, headers={"Authorization": f"Bearer {CANARY}"})
        try:
            got = ask(made, {})
        except NbllmError as error:
            got = str(error)
    assert "you sent" in got
    assert CANARY not in got


@pytest.mark.parametrize(
    ("number", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("168.63.129.16", False),
        ("0.0.0.0", False),
        ("224.0.1.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::808:808", True),
        ("2002:a9fe:a9fe::1", False),
    ],
)
def test_which_addresses_are_public(number, public):
    """Those inside IPv6 addresses too."""
    assert public == is_public(ipaddress.ip_address(number))


def test_a_name_that_leads_home_is_refused_where_it_is_connected():
    """What a name leads to is checked in the step that connects, so no second look-up can differ."""
    with Listener() as server:
        url = server.url.replace("127.0.0.1", "localhost")

        async def send():
            transport = HttpTransport()
            try:
                async with transport.open(
                    PreparedRequest(HttpCall(url, {}, {}, "GET"), public=True), Trace(), 5.0
                ):
                    pass
            finally:
                await transport.close()

        with pytest.raises(ConnectFailed, match="localhost resolves to an address that is not on the public"):
            asyncio.run(send())
    assert server.seen == []


TABLE = {
    "url": API + "/{city}?key=${WEATHER_KEY}",
    "description": "The weather.",
    "headers": {"X-Key": "${WEATHER_KEY}"},
    "timeout": 5,
    "reads": True,
}


def test_a_table_of_toml():
    """Its variables are filled in and shown nowhere."""
    made = from_table("weather", TABLE, {"WEATHER_KEY": CANARY})
    assert f"{API}/a?key={CANARY}" == made.request({"city": "a"}).url
    usable = made.usable(HttpTransport)
    assert (5, True, "The weather.") == (usable.timeout, usable.reads, usable.tool.description)
    assert CANARY not in repr(made) + repr(usable) + repr(made.request({"city": "a"}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"uri": "x"}, "unknown entry 'uri'.*\n.*'url'"),
        ({"timeout": "5"}, "wrong 'timeout'"),
        ({"timeout": True}, "wrong 'timeout'"),
        ({"url": "https://a.test/${NOT_SET}"}, "needs NOT_SET"),
        ({"url": ""}, "no valid URL"),
    ],
)
def test_a_wrong_table(change, words):
    """Says which entry."""
    with pytest.raises(ConfigError, match=words):
        from_table("weather", TABLE | change, {"WEATHER_KEY": CANARY})


@pytest.mark.parametrize("name", ["openai", "gemini"])
def test_a_model_asks_an_endpoint(name):
    """Beside functions; over the client's own connections, on the engine's loop."""

    def double(n: int) -> int:
        """Twice a number."""
        return 2 * n

    client = Client()
    try:
        with Listener((200, b"sunny")) as server:
            weather = HttpTool("weather", server.url + "/{city}", headers={"x-key": Secret(CANARY)})
            given = [[weather, double], {"name": "plain"}]
            stream = client.stream("Weather?", f"sim/{name}/m@ttft=0,gap=0", tools=given, approve="auto")
            response = stream.response()
    finally:
        client.close()
    ((end,),) = [step.results for step in response.steps if step.results]
    assert ("ran", "sunny", "weather") == (end.outcome, end.result.content, end.result.name)
    assert CANARY in server.text
    assert CANARY not in repr(stream.log) + repr(response)

"""Google's generateContent: requests in, bodies out; frames in, events out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.core import errors
from nbllm.core.calls import Frame, ProviderSpec, Secret
from nbllm.core.events import (
    Finished,
    Fold,
    Notice,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
    fold,
)
from nbllm.core.messages import Document, Image, Message, Reasoning, Request, Text, Tool, ToolCall, ToolResult
from nbllm.dialects.gemini import DIALECT

from . import decoding

ROW = ProviderSpec("acme", "gemini", "https://acme.test/v1beta", label="Acme")
HELLO = (Message("user", "Hello"),)


def body(*turns, model="gemini-3-flash", **options):
    return DIALECT.encode(Request(model, turns or HELLO, **options), ROW, None).body


def config(**options):
    return body(**options).get("generationConfig", {})


def url(model, base):
    return DIALECT.encode(Request(model, HELLO), ProviderSpec("acme", "gemini", base), None).url


def read(*chunks):
    return decoding.read(DIALECT, ROW, *chunks)


def folded(*chunks):
    return fold(read(*chunks))


def say(*parts, finish=None, **more):
    candidate = {
        "content": {"role": "model", "parts": [{"text": p} if isinstance(p, str) else p for p in parts]},
        **more,
    }
    return {"candidates": [{**candidate, "finishReason": finish} if finish else candidate]}


def call(name=None, signature=None, **about):
    part = {"functionCall": {"name": name, **about} if name else about}
    return {**part, "thoughtSignature": signature} if signature else part


def arg(path, more=None, **value):
    return {"jsonPath": path, **value, **({"willContinue": True} if more else {})}


STOP = say(finish="STOP")


class TestEncode:
    @pytest.mark.parametrize(
        ("model", "base", "address"),
        [
            ("gemini-pro", "https://g.test/v1beta", "https://g.test/v1beta/models/gemini-pro"),
            ("gemini-pro", "https://g.test/v1/", "https://g.test/v1/models/gemini-pro"),
            ("gemini-pro", "https://g.test", "https://g.test/v1beta/models/gemini-pro"),
            ("gemini-pro", "https://g.test/proxy/c/12", "https://g.test/proxy/c/12/v1beta/models/gemini-pro"),
            (
                "gemini-pro",
                "https://g.test/v1beta1/projects/p/publishers/google",
                "https://g.test/v1beta1/projects/p/publishers/google/models/gemini-pro",
            ),
            ("models/gemini-pro", "https://g.test/v1", "https://g.test/v1/models/gemini-pro"),
            ("tunedModels/mine", "https://g.test/v1", "https://g.test/v1/tunedModels/mine"),
            ("a/b?c:d", "https://g.test/v1", "https://g.test/v1/models/a%2Fb%3Fc%3Ad"),
        ],
    )
    def test_address(self, model, base, address):
        """The model stands in the path, quoted; an address without a version gets one."""
        assert f"{address}:streamGenerateContent?alt=sse" == url(model, base)

    def test_key(self):
        """The key goes into a header, never into the address."""
        row = ProviderSpec("acme", "gemini", "https://g.test/v1", headers={"X-A": "b"})

        made = DIALECT.encode(Request("m", HELLO), row, Secret("k-123"))

        assert {"x-goog-api-key": "k-123", "X-A": "b"} == made.headers
        assert "k-123" not in made.url + repr(made)

    def test_nothing_is_sent_that_was_not_asked_for(self):
        """A plain request holds the turn alone."""
        assert {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]} == body()

    def test_options(self):
        """Every option has its place in the body; generationConfig in extra joins ours, all else replaces."""
        made = body(
            Message("system", "Be brief."),
            *HELLO,
            max_tokens=9,
            temperature=0.5,
            top_p=0.9,
            stop=("a",),
            seed=1,
            schema={"type": "object"},
            tools=(Tool("f", "Does it."),),
            extra={"generationConfig": {"topK": 3, "seed": 2}, "cachedContent": "c"},
        )

        settings = {
            "maxOutputTokens": 9,
            "temperature": 0.5,
            "topP": 0.9,
            "stopSequences": ["a"],
            "seed": 2,
            "topK": 3,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
        }
        tool = {
            "name": "f",
            "description": "Does it.",
            "parametersJsonSchema": {"type": "object", "properties": {}},
        }
        assert {
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": body()["contents"],
            "cachedContent": "c",
            "tools": [{"functionDeclarations": [tool]}],
            "generationConfig": settings,
        } == made

    @pytest.mark.parametrize(
        ("choice", "strict", "said"),
        [
            (None, None, None),
            ("auto", None, {"mode": "AUTO"}),
            ("none", None, {"mode": "NONE"}),
            ("required", None, {"mode": "ANY"}),
            ("f", None, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
            (None, True, {"mode": "VALIDATED"}),
            ("required", True, {"mode": "ANY"}),
        ],
    )
    def test_tool_choice(self, choice, strict, said):
        """A choice is a mode, with the name of the one tool that must be called."""
        assert said == body(tools=(Tool("f", strict=strict),), tool_choice=choice).get("toolConfig", {}).get(
            "functionCallingConfig"
        )

    @pytest.mark.parametrize(
        ("model", "asked", "said"),
        [
            ("gemini-3-flash", None, None),
            ("gemini-3-flash", "low", {"thinkingLevel": "low", "includeThoughts": True}),
            ("gemini-flash-latest", "high", {"thinkingLevel": "high", "includeThoughts": True}),
            ("gemini-2.5-pro", "high", {"thinkingBudget": 24576, "includeThoughts": True}),
            ("gemini-3-flash", 512, {"thinkingBudget": 512, "includeThoughts": True}),
            ("gemini-2.5-pro", -1, {"thinkingBudget": -1, "includeThoughts": True}),
            ("gemini-3-flash", "none", {"thinkingBudget": 0}),
            ("gemini-2.5-flash", 0, {"thinkingBudget": 0}),
        ],
    )
    def test_reasoning(self, model, asked, said):
        """Words are levels, for models before Gemini 3 budgets; whoever asks for thinking sees it."""
        assert said == config(model=model, reasoning=asked).get("thinkingConfig")

    def test_turns(self):
        """Neighbours of one role are one turn; signatures go back on their parts; results find the names of
        their tools."""
        made = body(
            Message("user", ["Hi", Image(b"x"), Document(b"y")]),
            Message("user", Image(url="https://e.test/a", media_type="image/jpeg")),
            Message(
                "assistant",
                [
                    Reasoning("hm"),
                    Reasoning("foreign", "s", id="rs_1"),
                    Reasoning("so", "s0"),
                    Text("Yes", "s1"),
                    Text(""),
                    Text("", "s2"),
                    ToolCall("nbllm-0", "f", {"x": 1}, signature="s3", made_up=True),
                    ToolCall("call_12_3", "g", {}),
                ],
            ),
            Message(
                "tool",
                [
                    ToolResult("nbllm-0", "one"),
                    ToolResult("call_12_3", (Text("two"), Image(b"x")), is_error=True),
                    ToolResult("z", "3", name="h"),
                ],
            ),
        )["contents"]

        picture = {"inlineData": {"mimeType": "image/png", "data": "eA=="}}
        assert [
            {
                "role": "user",
                "parts": [
                    {"text": "Hi"},
                    picture,
                    {"inlineData": {"mimeType": "application/pdf", "data": "eQ=="}},
                    {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://e.test/a"}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "so", "thought": True, "thoughtSignature": "s0"},
                    {"text": "Yes", "thoughtSignature": "s1"},
                    {"text": "", "thoughtSignature": "s2"},
                    {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "s3"},
                    {"functionCall": {"id": "call_12_3", "name": "g", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "f", "response": {"output": "one"}}},
                    {
                        "functionResponse": {
                            "id": "call_12_3",
                            "name": "g",
                            "response": {"error": "two"},
                            "parts": [picture],
                        }
                    },
                    {"functionResponse": {"id": "z", "name": "h", "response": {"output": "3"}}},
                ],
            },
        ] == made

    @pytest.mark.parametrize(
        ("model", "inside"),
        [("gemini-2.5-flash", 0), ("models/gemini-2.0-pro", 0), ("gemini-3-pro", 1), ("gemini-9-flash", 1)],
    )
    def test_pictures_of_a_result(self, model, inside):
        """Within the response for Gemini 3 and later; behind all responses for models before it, which take
        text there, and for what has only an address."""
        png, far = Image(b"x", media_type="image/png"), Image(url="https://e.test/a.png")
        calls = Message("assistant", [ToolCall("a", "f", {}), ToolCall("b", "g", {})])
        results = [ToolResult("a", (Text("one"), png, far)), ToolResult("b", "two")]
        asked = body(HELLO[0], calls, Message("tool", results), model=model)
        one, two, *behind = asked["contents"][-1]["parts"]
        assert ("one", "two") == tuple(p["functionResponse"]["response"]["output"] for p in (one, two))
        data = {"inlineData": {"mimeType": "image/png", "data": "eA=="}}
        assert [data] * inside == one["functionResponse"].get("parts", [])
        assert [data] * (1 - inside) == behind[:-1]
        assert "https://e.test/a.png" == behind[-1]["fileData"]["fileUri"]

    @pytest.mark.parametrize(
        ("turn", "options"),
        [
            (Message("tool", ToolResult("x", "1")), {}),
            (Message("user", ToolCall("a", "f", {})), {}),
            (Message("system", Image(b"x")), {}),
            (Message("user", Image()), {}),
            (HELLO[0], {"reasoning": "much"}),
            (HELLO[0], {"reasoning": -2}),
        ],
    )
    def test_what_cannot_be_said(self, turn, options):
        """A part in the wrong place, a result without a name, an unknown word: an error on this side."""
        with pytest.raises(errors.ConfigError):
            body(turn, **options)


class TestDecode:
    def test_text(self):
        """Events come chunk by chunk; counts are reported where they change, and thoughts count as output."""
        first, last = (
            {"promptTokenCount": 3, "totalTokenCount": 3},
            {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 5},
        )
        about = {"responseId": "r", "modelVersion": "g"}
        assert [
            Started("r", "g"),
            ReasoningDelta("hm"),
            UsageReport(Usage(3, None, raw=first), final=False),
            TextDelta("Hel"),
            TextDelta("lo", "sig"),
            UsageReport(Usage(3, 7, 5, raw=last)),
            Finished("stop", "STOP"),
        ] == read(
            {**say({"text": "hm", "thought": True}), "usageMetadata": first, **about},
            {**say("Hel"), "usageMetadata": first, **about},
            {**say({"text": "lo", "thoughtSignature": "sig"}, finish="STOP"), "usageMetadata": last, **about},
        )

    def test_usage(self):
        """Counts of cached input are kept, chunks without counts change nothing, tool-use input stays apart
        in raw."""
        raw = {
            "promptTokenCount": 9,
            "cachedContentTokenCount": 4,
            "toolUsePromptTokenCount": 50,
            "candidatesTokenCount": 1,
        }
        assert (
            Usage(9, 1, None, 4, None, raw)
            == folded({"usageMetadata": raw}, {**STOP, "usageMetadata": {"trafficType": "X"}}).usage
        )

    @pytest.mark.parametrize(
        ("given", "arguments"), [({"a": 1}, {"a": 1}), ({}, {}), (None, {}), ('{"a": 1}', {"a": 1})]
    )
    def test_arguments(self, given, arguments):
        """Arguments come as an object, or not at all."""
        assert [arguments] == [
            c.arguments for c in folded(say(call("f", args=given), finish="STOP")).tool_calls
        ]

    def test_calls(self):
        """Each call is one, with its signature and its id where there is one; a call told again by id counts
        once."""
        events = read(
            say(call("f", "sig", id="a", args={"x": 1}), call("f")),
            say(call("f", "sig", id="a", args={"x": 1})),
            STOP,
        )
        assert [
            ToolCallDelta(0, "a", "f", '{"x": 1}', "sig"),
            ToolCallDelta(1, None, "f"),
            Finished("tool_calls", "STOP"),
        ] == events

    def test_streamed_arguments(self):
        """Values at paths make one text; a string that goes on is continued; a new name, or a last piece,
        ends the call."""
        pieces = [
            call("f", "sig", willContinue=True),
            call(partialArgs=[arg("$.list[0].name", True, stringValue="a")], willContinue=True),
            call(
                partialArgs=[arg("$.list[0].name", stringValue="b"), arg("$.list[1]", numberValue=0.5)],
                willContinue=True,
            ),
            call(partialArgs=[arg("$['x y']", boolValue=True), arg('$["n"]', nullValue="NULL_VALUE")]),
            call("g", willContinue=True),
            call(partialArgs=[arg("$.s", stringValue="1")], willContinue=True),
            call(),
            call("h"),
            call("i", partialArgs=[arg("$.z", numberValue=1)], willContinue=True),
        ]
        answer = folded(*map(say, pieces), STOP)
        assert [
            ("f", {"list": [{"name": "ab"}, 0.5], "x y": True, "n": None}),
            ("g", {"s": "1"}),
            ("h", {}),
            ("i", {"z": 1}),
        ] == [(c.name, c.arguments) for c in answer.tool_calls]
        assert "sig" == answer.tool_calls[0].signature

    @pytest.mark.parametrize("path", ["", "list", "$.a[999999]", "$.a..b", "$[", "$.a[x]"])
    def test_paths_that_lead_nowhere(self, path):
        """A path that cannot be read is passed over."""
        assert (
            {}
            == folded(say(call("f", partialArgs=[arg(path, stringValue="a")])), STOP).tool_calls[0].arguments
        )

    def test_a_call_that_never_ends(self):
        """A call whose arguments were cut is not taken for one without arguments."""
        fold = Fold()
        for event in DIALECT.decoder(ROW).feed(Frame(json.dumps(say(call("f", willContinue=True))))):
            fold.add(event)
        assert fold.response().tool_calls[0].arguments is None

    def test_notices(self):
        """What tools of the provider did, sources, and unknown parts are kept beside the answer, sources
        once."""
        sources = {
            "groundingMetadata": {"groundingChunks": [{"web": {"uri": "https://e.test", "title": "E"}}]},
            "citationMetadata": {"citationSources": [{"uri": "https://f.test"}]},
        }
        answer = folded(
            say(
                {"executableCode": {"code": "1"}},
                {"codeExecutionResult": {"output": "1"}},
                {"toolCall": {}, "thoughtSignature": "s"},
                {"inlineData": {"data": "eA=="}},
                call(args={}),
            ),
            say("Hi", **sources),
            say(finish="STOP", **sources),
        )
        assert ["server_tool"] * 4 + ["unknown"] + ["citation"] * 2 == [n.kind for n in answer.notices]
        assert ["https://e.test", "https://f.test"] == [
            n.text for n in answer.notices if n.kind == "citation"
        ]
        assert ("Hi", (), "stop") == (answer.text, answer.tool_calls, answer.finish_reason)

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("STOP", "stop"),
            ("MAX_TOKENS", "length"),
            ("SAFETY", "content_filter"),
            ("RECITATION", "content_filter"),
            ("SPII", "content_filter"),
            ("MODEL_ARMOR", "content_filter"),
            ("LANGUAGE", "error"),
            ("MALFORMED_FUNCTION_CALL", "error"),
            ("OTHER", "other"),
            ("NEW", "other"),
        ],
    )
    def test_reasons(self, raw, reason):
        """Reasons have our words."""
        assert Finished(reason, raw) == read(say("Hi"), say(finish=raw))[-1]

    def test_the_last_reason_holds(self):
        """A stop in the middle is not the end."""
        answer = folded(
            say("a", finish="STOP"), say("b"), say("c", finish="MAX_TOKENS", finishMessage="Enough.")
        )
        assert ("abc", "length", "Enough.") == (answer.text, answer.finish_reason, answer.notices[0].text)

    def test_a_blocked_prompt(self):
        """A prompt that was blocked has no candidates, and its reason is a filter."""
        answer = folded({"promptFeedback": {"blockReason": "NEW_ONE", "blockReasonMessage": "No."}})
        assert ("content_filter", "promptFeedback:NEW_ONE", "No.") == (
            answer.finish_reason,
            answer.finish_raw,
            answer.refusal,
        )

    def test_one_candidate_is_the_answer(self):
        """Other candidates than the first are passed over."""
        chunk = {
            "candidates": [
                say("a", finish="STOP")["candidates"][0],
                {**say("b", finish="STOP")["candidates"][0], "index": 1},
            ]
        }
        assert "a" == folded(chunk).text

    @pytest.mark.parametrize(
        "chunks",
        [
            (say("Hi", avgLogprobs=-0.1),),
            ([say("H"), say("i", finish="STOP")],),
            (say("Hi"), {"candidates": [{"finishReason": "STOP"}]}),
            (say("Hi"), {"candidates": [{"content": {}, "finishReason": "STOP"}]}, Frame(""), "[DONE]"),
        ],
    )
    def test_shapes(self, chunks):
        """A whole answer without a reason, an array, candidates without parts."""
        assert ("Hi", "stop") == ((answer := folded(*chunks)).text, answer.finish_reason)

    @pytest.mark.parametrize("wrap", [lambda e: e, lambda e: [e], lambda e: {**say("more"), **e}])
    def test_errors_in_the_stream(self, wrap):
        """An error comes as an object, in an array, or beside candidates; what came before has been told."""
        decoder, events = DIALECT.decoder(ROW), []
        events += decoder.feed(Frame(json.dumps(say("Hi"))))
        with pytest.raises(errors.Overloaded, match="Busy"):
            events += decoder.feed(
                Frame(json.dumps(wrap({"error": {"code": 503, "message": "Busy", "status": "UNAVAILABLE"}})))
            )
        assert TextDelta("Hi") in events

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (b'[{"error": {"code": 400, "message": "Use a valid role."}}]', "Use a valid role."),
            (b'[{"error":\n  {"code": 400,}}]', '[{"error":\n  {"code": 400,}}]'),
        ],
    )
    def test_errors_of_http(self, answer, said):
        """An error in an array is unwrapped; a body that is no JSON is shown as it is."""
        error = DIALECT.error(400, {}, answer, ROW)
        assert (errors.BadRequest, True) == (type(error), said in str(error))

    @pytest.mark.parametrize(
        ("chunks", "error"),
        [
            ((say("Hi"),), errors.StreamCut),
            ((say("Hi"), Frame('{"candi', tail=True)), errors.StreamCut),
            ((), errors.ServerError),
            (({"choices": []},), errors.ProtocolError),
            (("{bad",), errors.ProtocolError),
        ],
    )
    def test_no_end(self, chunks, error):
        """An answer without a reason is an error: cut, empty, or in another format."""
        with pytest.raises(error):
            read(*chunks)

    def test_halves_of_a_character(self):
        """A character cut in two comes whole, and a half in arguments does no harm."""
        assert "\N{GRINNING FACE}" == folded(say("\ud83d"), say("\ude00"), STOP).text
        assert [ReasoningDelta("\ufffd"), TextDelta("\ufffd"), Finished("stop", "STOP")] == read(
            say({"text": "\ud83d", "thought": True}), say("\ud83d"), STOP
        )
        folded(say(call("f", args={"a": "\ud83d"})), STOP).tool_calls[0].arguments_raw.encode()

    def test_unknown_parts_first(self):
        """A part of the future is a notice under its own name."""
        assert Notice("unknown", "hologram", {"hologram": 1}) in read(say({"hologram": 1}), STOP)


NAMES = [
    "candidates",
    "content",
    "parts",
    "text",
    "thought",
    "thoughtSignature",
    "functionCall",
    "name",
    "args",
    "partialArgs",
    "jsonPath",
    "stringValue",
    "willContinue",
    "finishReason",
    "finishMessage",
    "groundingMetadata",
    "groundingChunks",
    "usageMetadata",
    "promptTokenCount",
    "promptFeedback",
    "blockReason",
    "index",
    "id",
    "error",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(NAMES), v, max_size=5),
    max_leaves=15,
)
PATHS = st.text("$.[]'\"ab01\\", max_size=9).map("${}".format)
CALLS = st.fixed_dictionaries(
    {},
    optional={
        "name": VALUES,
        "id": VALUES,
        "args": VALUES,
        "willContinue": st.booleans(),
        "partialArgs": st.lists(
            st.fixed_dictionaries(
                {"jsonPath": PATHS}, optional={"stringValue": VALUES, "willContinue": st.booleans()}
            )
        ),
    },
)
PARTS = VALUES | st.fixed_dictionaries({"functionCall": CALLS}, optional={"thoughtSignature": VALUES})


@pytest.mark.slow
@given(st.lists(VALUES | st.lists(PARTS, max_size=3).map(lambda parts: say(*parts)), max_size=6))
def test_any_json_is_events_or_an_error(chunks):
    """Whatever JSON comes, there are events or an error of ours."""
    fold = Fold()
    try:
        for event in read(*map(json.dumps, [*chunks, STOP])):
            fold.add(event)
    except errors.NbllmError:
        pass
    fold.response().text.encode()

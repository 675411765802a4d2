"""Shapes, checked values and frames; structured cells and conversations in a real kernel."""

import dataclasses
import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydantic
import pytest

from nbllm import Message, Response, Text
from nbllm.core import errors
from nbllm.core.errors import Mismatch, Truncated
from nbllm.core.schema import Shape, checked_schema, parse_answer

from .decoding import from_json
from .kernels import Kernel


class City(pydantic.BaseModel):
    name: str
    population: int


class Node(pydantic.BaseModel):
    next: "Node | None" = None


@dataclasses.dataclass
class Town:
    name: str
    founded: int | None = None


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["name", "population"],
}
GOOD = '{"name": "Oslo", "population": 717710}'


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (SCHEMA, {"name": "Oslo", "population": 717710}),
        (City, City(name="Oslo", population=717710)),
    ],
)
@pytest.mark.parametrize(
    "text", [GOOD, f"Here it is:\n```json\n{GOOD}\n```\n", f"Sure! {GOOD} Anything else?"]
)
def test_the_value_is_found_and_checked(given, value, text):
    """Bare, in a fence, or within words."""
    assert value == Shape.of(given).check(text)


def test_lists_and_dataclasses_are_shapes():
    """A list stands under `items` for the provider, and comes back as a list."""
    shape = Shape.of(list[Town])
    assert "object" == shape.provider_schema["type"]
    assert [Town("Bergen", 1070), Town("Ås")] == shape.check(
        '{"items": [{"name": "Bergen", "founded": 1070}, {"name": "Ås"}]}'
    )
    assert [Town("Ås")] == shape.check('[{"name": "Ås"}]')


@pytest.mark.parametrize(
    ("given", "text", "place"),
    [
        (SCHEMA, '{"name": "Oslo"}', "population"),
        (City, '{"name": "Oslo", "population": "many"}', "population"),
        (SCHEMA, "Oslo, 717,710", "no JSON"),
        (list[City], '{"items": [{"name": "Oslo", "population": 1}, {"name": 7}]}', "[1]"),
    ],
)
def test_a_mismatch_says_where(given, text, place):
    """In words that a model can mend."""
    with pytest.raises(Mismatch) as caught:
        Shape.of(given).check(text)
    assert place in "; ".join(caught.value.problems)


def test_a_truncated_answer_is_not_read():
    """Even where what came would parse."""
    with pytest.raises(Truncated) as caught:
        parse_answer(Response((Text(GOOD),), "length"), Shape.of(SCHEMA))
    assert GOOD == caught.value.partial.text


@pytest.mark.parametrize("given", [7, "", "a b c d", "{", lambda: None])
def test_what_is_no_schema(given):
    """With what is one."""
    with pytest.raises(errors.ConfigError, match="schema"):
        Shape.of(given)


def chain(steps, end):
    """A schema whose parts refer to the next one twice each."""
    ref = [{"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(steps)]
    return {"$defs": {f"d{i}": part for i, part in enumerate([*ref, end])}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("draft", ["2020-12", "2019-09"])
def test_references_that_double_at_each_step(draft):
    """Cost what they are long."""
    told = {"$schema": f"https://json-schema.org/draft/{draft}/schema"}
    assert checked_schema(chain(60, {"type": "string"}) | told)
    assert checked_schema(chain(60, {"type": "string"} | told))


LOOP = {"$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        chain(0, LOOP),
        chain(3, LOOP),
        chain(60, LOOP),
        *(chain(0, {word: [LOOP, LOOP]}) for word in ("allOf", "anyOf", "oneOf")),
        chain(1, {"not": LOOP}),
        chain(0, {"if": True, "then": LOOP}),
        chain(0, {"oneOf": [{"type": "null"}, {"allOf": [LOOP]}]}),
        {"$ref": "#"},
    ],
)
def test_a_schema_that_contains_itself_without_end(schema):
    """Is refused; one that does so within lists or objects is not."""
    with pytest.raises(errors.ConfigError, match="contains itself without end"):
        checked_schema(schema)
    for inner in ({"items": LOOP}, {"properties": {"a": LOOP}}, {"anyOf": [{}, {"items": LOOP}]}):
        assert checked_schema(chain(2, inner))


def test_errors_of_answers_are_caught_by_their_public_names():
    """Whoever asks for a shape can catch what does not fit, as all else, by nbllm.errors."""
    import nbllm

    def below(kind):
        return [kind, *(each for sub in kind.__subclasses__() for each in below(sub))]

    found = {c.__name__: c for c in below(nbllm.NbllmError) if c.__module__.startswith("nbllm.core.")}
    assert {"Mismatch", "Truncated", "ConfigError"} <= set(found)
    assert found == {name: getattr(nbllm.errors, name, None) for name in found}


# --- in a kernel ---


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as kernel:
        yield kernel


@pytest.fixture
def canned():
    """A server that gives answers in turn, and keeps what it was asked: answers(*texts) -> (address,
    bodies)."""
    servers = []

    def start(*texts, finish="stop"):
        bodies, left = [], list(texts)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                answer = {
                    "id": "1",
                    "object": "chat.completion",
                    "model": "m",
                    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": finish,
                            "message": {"role": "assistant", "content": left.pop(0)},
                        }
                    ],
                }
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1", bodies

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.kernel
@pytest.mark.parametrize("options", ["", "as=df", "bg=true", "chat=counted", "runs=2"])
def test_a_structured_cell_finds_each_route_once(kernel, options):
    """To ask who is there may open connections, and ask key stores."""
    model = "sim/openai@ttft=0,gap=0"
    kernel.run(
        "import nbllm, threading\nfrom nbllm.notebook.session import current_session\nasked = []\n"
        "class Counting(nbllm.Client):\n    def resolve(self, model, *more):\n        asked.append(model)\n"
        "        return super().resolve(model, *more)\n"
        "session = current_session()\nsession.current_client = Counting()\n"
    )
    try:
        assert kernel.run(f'%%llm {model} schema="name, age int" {options}\nWho?').ok
        kernel.run("[t.join() for t in threading.enumerate() if t.name == 'nbllm-background']")
        assert [model] * (2 if options == "runs=2" else 1) == kernel.value("asked")
    finally:
        kernel.run("session.current_client.close()\nsession.current_client = None\n%llm chat clear counted")


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("schema", "words"),
    [('{"type":"strng"}', "not valid at $.type"), ('{"type" "x"}', "schema= is not valid JSON")],
)
def test_a_schema_that_is_none_is_told_as_what_it_is(kernel, schema, words):
    """JSON that is no schema is not called no JSON; nothing is sent."""
    ran = kernel.run(f"%%llm sim/openai schema={schema}\nWho?")
    assert words in ran.error["evalue"]
    assert 1 == sum(word in ran.error["evalue"] for word in ("not valid at", "is not valid JSON"))


@pytest.mark.kernel
def test_as_df_gives_a_dataframe_and_shows_it(kernel, canned):
    """The variable is the frame, _llm the answer, the output a table of escaped words."""
    url, bodies = canned(
        '{"items": [{"name": "<b>Oslo</b>", "population": 717710}, {"name": "Bergen", "population": 291940}]}'
    )
    ran = kernel.run(f'%%llm cities << m base_url={url} schema="[name, population int]" as=df\nTwo cities.')
    assert ran.ok, ran.error
    assert [["name", "population"], ["string", "Int64"], 2] == kernel.value(
        "[list(cities.columns), ['string', str(cities.population.dtype)], len(cities)]"
    )
    assert 1 == len(ran.outputs)
    assert "<b>Oslo" not in ran.html
    assert "&lt;b&gt;Oslo" in ran.html
    assert "json_schema" == bodies[0]["response_format"]["type"]


@pytest.mark.kernel
@pytest.mark.parametrize("wanted", ["", "as=object"])
def test_a_structured_answer_is_shown_as_json(kernel, canned, wanted):
    """Not as Markdown, which would take its stars and underlines for emphasis."""
    url, _ = canned('{"name": "*a* __b__"}')
    ran = kernel.run(f'%%llm m base_url={url} schema="name" {wanted}\nA name.')
    assert ran.ok, ran.error
    assert 'data-lang="json"' in ran.html
    assert "*a* __b__" in ran.html


@pytest.mark.kernel
def test_as_object_gives_checked_objects(kernel, canned):
    """A pydantic model, or a dataclass, of the notebook's own."""
    kernel.run(
        "import pydantic, dataclasses\nclass City(pydantic.BaseModel):\n    name: str\n    population: "
        "int\n@dataclasses.dataclass\nclass Town:\n    name: str"
    )
    url, _ = canned(GOOD)
    assert kernel.run(f"%%llm oslo << m base_url={url} schema=City as=object\nOne city.").ok
    assert ["City", 717710] == kernel.value("[type(oslo).__name__, oslo.population]")
    url, _ = canned('{"name": "Ås"}')
    assert kernel.run(f"%%llm town << m base_url={url} schema=Town as=object\nOne town.").ok
    assert "Ås" == kernel.value("town.name")


@pytest.mark.kernel
def test_an_answer_that_does_not_fit_is_asked_for_once_more(kernel, canned):
    """With what is wrong, after the answer itself; the second one counts."""
    url, bodies = canned('{"name": "Oslo"}', GOOD)
    ran = kernel.run(f'%%llm oslo << m base_url={url} schema="name, population int" as=object\nOne city.')
    assert ran.ok, ran.error
    assert 717710 == kernel.value("oslo['population']")
    assert ["user", "assistant", "user"] == [m["role"] for m in bodies[1]["messages"]]
    assert "population" in str(bodies[1]["messages"][-1]["content"])
    assert 1 == len(ran.outputs)


@pytest.mark.kernel
def test_a_class_by_its_name(kernel, canned):
    """Or a list of it; where its cell has not run, nothing is sent."""
    several = f'{{"items": [{GOOD}]}}'
    url, bodies = canned(GOOD, several, several, f'{{"items": {GOOD}}}', GOOD)
    for given in ("Hamlet", "list[Hamlet]"):
        ran = kernel.run(f"%%llm m base_url={url} schema={given} as=object\nOne city.")
        assert "Run the cell that defines it" in "".join(ran.error["traceback"])
    assert [] == bodies
    assert kernel.run("import pydantic\nclass Hamlet(pydantic.BaseModel):\n  name: str\n  population: int").ok
    assert kernel.run("import types\nplaces = types.SimpleNamespace(Hamlet=Hamlet, size=3)").ok
    for given in ("places.Town", "list[places]", "places.size", "list[Hamlet]|3"):
        ran = kernel.run(f"%%llm m base_url={url} schema={given} as=object\nOne city.")
        assert 1 <= len(ran.error["traceback"]) <= 4
    assert [] == bodies
    for given, expression in (
        ("Hamlet", "towns.name"),
        ("list[Hamlet]", "towns[0].name"),
        ("list[Hamlet]|None", "towns[0].name"),
        ('"dict[str, list[Hamlet]] | Hamlet"', "towns.name"),
        ("places.Hamlet", "towns.name"),
    ):
        ran = kernel.run(f"%%llm towns << m base_url={url} schema={given} as=object\nOne city.")
        assert ran.ok, ran.error
        assert "Oslo" == kernel.value(expression)


@pytest.mark.kernel
def test_one_that_never_fits_fails_the_cell_and_is_kept(kernel, canned):
    """After one repair; the answer is in _llm."""
    url, bodies = canned("no", "never")
    ran = kernel.run(f'%%llm m base_url={url} schema="name"\nOne city.')
    assert ("Mismatch", 2, "never") == (ran.error["ename"], len(bodies), kernel.value("_llm.text"))


@pytest.mark.kernel
def test_a_cut_answer_is_said_to_be_cut(kernel, canned):
    """And is not repaired: the same limit would cut it again."""
    url, bodies = canned(GOOD[:20], finish="length")
    ran = kernel.run(f'%%llm m base_url={url} schema="name, population int" as=df\nOne city.')
    assert ("Truncated", 1) == (ran.error["ename"], len(bodies))


@pytest.mark.kernel
def test_a_provider_without_a_mode_for_schemas_is_asked_in_words(kernel, canned):
    """Its row says that it cannot: the schema stands in the prompt, and the answer is checked all the
    same."""
    url, bodies = canned(GOOD)
    kernel.run(
        f"import nbllm\nnbllm.register_provider('plain', dialect='openai_chat', base_url={url!r}, "
        f"local=True, quirks={{'cannot': ['schema']}})"
    )
    ran = kernel.run('%%llm oslo << plain/m schema="name, population int" as=object\nOne city.')
    assert ran.ok, ran.error
    assert "response_format" not in bodies[0]
    assert "JSON schema" in str(bodies[0]["messages"][-1]["content"])


@pytest.mark.kernel
def test_a_conversation_goes_on_and_a_cell_run_again_replaces_its_turn(kernel, canned):
    """The second cell sends both turns; the first one run again sends none and takes its own place."""
    url, bodies = canned("Alpha", "Beta", "Gamma")
    for cell, words in (("a", "First."), ("b", "Second."), ("a", "First.")):
        assert kernel.run(f"%%llm m chat=eda base_url={url}\n{words}", cell=cell).ok
    assert [1, 3, 1] == [len(b["messages"]) for b in bodies]
    ran = kernel.run("%llm chat show eda")
    assert ran.text.index("Gamma") < ran.text.index("Beta")
    assert "Alpha" not in ran.text


@pytest.mark.kernel
def test_conversations_are_listed_forked_undone_exported_and_forgotten(kernel, canned, tmp_path):
    """Each says what it did; an unknown name says which there are."""
    url, _ = canned("One", "Two")
    for word in ("First", "Second"):
        assert kernel.run(f"%%llm m -c talk base_url={url}\n{word}.").ok
    kernel.run("chats = %llm chat list")
    assert 2 == kernel.value("int(chats.loc['talk', 'turns'])")
    assert "Turn 1 of talk is pinned" in kernel.run("%llm chat pin talk 1").text
    assert "Turn 1 of talk is no longer pinned" in kernel.run("%llm chat unpin talk 1").text
    for wrong in ("3", "0", "x"):
        assert "has no turn" in "".join(kernel.run(f"%llm chat pin talk {wrong}").error["traceback"])
    assert "2 turns" in kernel.run("%llm chat fork talk other").text
    assert "1 turn" in kernel.run("%llm chat undo talk").text
    kernel.run(f"%llm chat export other {tmp_path / 'x.json'}")
    kernel.run("said = %llm chat export other")
    assert kernel.value("[[m.role, m.text] for m in said]") == [
        [m.role, m.text] for m in from_json((tmp_path / "x.json").read_text(), tuple[Message, ...])
    ]
    assert ["user", "assistant"] * 2 == kernel.value("[m.role for m in said]")
    assert "deleted" in kernel.run("%llm chat clear talk").text
    ran = kernel.run("%llm chat show talk")
    assert "other" in "".join(ran.error["traceback"])


@pytest.mark.kernel
def test_within_one_run_every_question_is_a_turn_and_a_run_again_replaces_all_of_them(kernel, canned):
    """Two questions in one cell are two turns; the cell run again replaces both, and only when a new answer
    is there."""
    url, bodies = canned("A1", "A2", "B", "A3", "A4")
    two = f"%llm ask -m m chat=two base_url={url} one\n%llm ask -m m chat=two base_url={url} two"
    assert kernel.run(two, cell="a").ok
    assert kernel.run(f"%%llm m chat=two base_url={url}\nthree", cell="b").ok
    assert not kernel.run("%%llm m chat=two base_url=http://127.0.0.1:9 retries=0\none", cell="a").ok
    turns = (
        "from nbllm.notebook.session import current_session\nsaid = [t.response.text for t in "
        "current_session().chats.get('two').turns]"
    )
    kernel.run(turns)
    assert ["A1", "A2", "B"] == kernel.value("said")
    assert kernel.run(two, cell="a").ok
    kernel.run(turns)
    assert ["A3", "A4", "B"] == kernel.value("said")
    assert [1, 3, 5, 1, 3] == [len(b["messages"]) for b in bodies]


@pytest.mark.kernel
def test_without_ids_a_new_execution_is_a_new_turn(kernel, canned):
    """As under papermill: the same words twice are two turns."""
    url, bodies = canned("One", "Two")
    for _ in range(2):
        assert kernel.run(f"%%llm m chat=papers base_url={url}\ncontinue").ok
    assert [1, 3] == [len(b["messages"]) for b in bodies]


@pytest.mark.kernel
def test_a_structured_answer_that_does_not_fit_is_asked_for_again_in_its_own_column(kernel, canned):
    """In the background and beside others too; one output is left, and the variable holds what fits."""
    url, bodies = canned("no JSON", '{"name": 1}', '{"name": "Ada", "age": 36}', '{"name": "Bo", "age": 4}')
    ran = kernel.run(f'%%llm m,m base_url={url} schema="name, age int" as=object out=both\nInvent one.')
    assert ran.ok, ran.error
    assert 4 == len(bodies)
    assert ["Ada", "Bo"] == sorted(kernel.value("[v['name'] for v in both.values]"))
    assert 1 == len(ran.outputs)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "{" * 200_000,
        '{"a":' * 800 + "1" + "}" * 800,
        "[" * 800 + "]" * 800,
        "9" * 5000,
        "```json\n" * 20_000,
    ],
)
def test_an_answer_without_end_or_depth_is_a_mismatch(text):
    """In a schema that refers to itself and in any other: told in words, at once."""
    inside = {
        "$defs": {
            "node": {
                "anyOf": [
                    {"type": "object", "additionalProperties": {"$ref": "#/$defs/node"}},
                    {"type": "array", "items": {"$ref": "#/$defs/node"}},
                ]
            }
        }
    }
    for schema in ({**inside, "$ref": "#/$defs/node"}, {"type": "object"}, {"type": "string"}):
        with suppress(Mismatch):
            Shape({**schema}).check(text)


def test_a_type_that_refers_to_itself_and_a_deep_answer():
    """pydantic's own limit is a mismatch too."""
    with suppress(Mismatch):
        Shape.of(Node).check('{"next":' * 800 + "null" + "}" * 800)

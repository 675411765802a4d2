"""The simulator's batches: called with the official SDKs, and read by nbllm's own decoders."""

import json

import httpx
import pytest

import nbllm.simulator
from nbllm.core.calls import ProviderSpec
from nbllm.core.errors import NbllmError
from nbllm.core.events import TextDelta
from nbllm.core.messages import Message, Request, Text
from nbllm.dialects import batches
from nbllm.routing.dialects import DIALECTS

IDS = [f"0123abcd_{i}" for i in range(6)]
DIALECT = {"openai": "openai_chat", "anthropic": "anthropic", "gemini": "gemini", "mistral": "openai_chat"}
PATHS = {"openai": "/v1/batches", "anthropic": "/v1/messages/batches", "mistral": "/v1/batch/jobs"}


@pytest.fixture(scope="module")
def server():
    """One simulator."""
    with nbllm.simulator.serve(echo=True) as found:
        yield found


@pytest.fixture
def web(server):
    """A client of it, without what an earlier test left."""
    server.reset()
    with httpx.Client(base_url=server.url, verify=False) as client:
        yield client


def lines(kind, model="m"):
    """The lines that ask for six echoes."""
    dialect = DIALECT[kind]
    row = ProviderSpec("p", dialect, f"https://host/{'v1beta' if kind == 'gemini' else 'v1'}")
    for id in IDS:
        request = Request(model, [Message("user", [Text(f"say {id}")])], max_tokens=50)
        call = DIALECTS[dialect].encode(request, row, None)
        yield batches.request_line(batches.FORMATS[kind], id, call)


def upload(web, data):
    """The id of a file, uploaded as OpenAI's and Mistral's clients do."""
    files = {"file": ("batch.jsonl", data.encode())}
    return web.post("/v1/files", data={"purpose": "batch"}, files=files).raise_for_status().json()["id"]


def create(web, kind, words="", made=None):
    """The answer to the creation of a batch of six lines."""
    sim = {"x-nbllm-sim": words}
    made = list(lines(kind)) if made is None else made
    if kind == "anthropic":
        body = {"requests": [json.loads(line) for line in made]}
        return web.post("/v1/messages/batches", json=body, headers=sim | {"anthropic-version": "2023-06-01"})
    if kind == "gemini":
        head = {"X-Goog-Upload-Protocol": "resumable", "X-Goog-Upload-Command": "start"}
        began = web.post("/upload/v1beta/files", headers=head, json={"file": {"display_name": "d"}})
        end = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
        sent = web.post(began.headers["x-goog-upload-url"], headers=end, content="\n".join(made))
        body = {"batch": {"displayName": "d", "inputConfig": {"fileName": sent.json()["file"]["name"]}}}
        return web.post("/v1beta/models/m:batchGenerateContent", json=body, headers=sim)
    body = {"endpoint": "/v1/chat/completions", "metadata": {"nbllm_run": "r1"}}
    file = upload(web, "\n".join(made))
    if kind == "mistral":
        body |= {"input_files": [file], "model": "m", "timeout_hours": 24}
    else:
        body |= {"input_file_id": file, "completion_window": "24h"}
    return web.post(PATHS[kind], json=body, headers=sim)


def address(kind, id):
    """Where a batch is asked for."""
    return f"/v1beta/{id}" if kind == "gemini" else f"{PATHS[kind]}/{id}"


def collected(web, kind, words):
    """(state, outcomes by id, collector) of a batch of six lines, read as nbllm would."""
    made = create(web, kind, words).raise_for_status().json()
    found = batches.parse_state(web.get(address(kind, batches.parse_state(made).id)).json())
    assert not found.running
    collector = batches.Collector(IDS, ProviderSpec("p", DIALECT[kind], "https://host/v1"))
    texts = [web.get(found.url)] if found.url else []
    for name in found.files:
        texts.append(
            web.get(f"/v1beta/{name}:download?alt=media" if kind == "gemini" else f"/v1/files/{name}/content")
        )
    rows = [
        o
        for t in texts
        for line in t.raise_for_status().content.split(b"\n")
        if (o := collector.parse_line(line))
    ]
    rows += collector.missing(found.state)
    assert sorted(r.id for r in rows) == IDS
    return found, {r.id: r for r in rows}, collector


def said(kind, outcome):
    """The words of an answer, None for an error."""
    try:
        events = outcome.events(DIALECTS[DIALECT[kind]], ProviderSpec("p", DIALECT[kind], "https://host/v1"))
    except NbllmError:
        return None
    return "".join(e.text for e in events if isinstance(e, TextDelta))


@pytest.mark.parametrize("kind", DIALECT)
@pytest.mark.parametrize(
    ("words", "answered"),
    [
        ("", 6),
        ("batch_shuffle=1", 6),
        ("batch_shuffle=1,seed=3,batch_fail=2", 4),
        ("batch_zero=1", 5),
        ("batch_missing=2,batch_shuffle=1", 4),
        ("batch_missing=1,batch_zero=1,batch_fail=1", 3),
        ("batch_end=expired", 3),
        ("batch_end=cancelled,batch_shuffle=1", 3),
        ("batch_end=failed", 0),
        ("batch_fail=6", 0),
    ],
)
def test_each_fault_of_each_shape_costs_its_own_rows_only(web, kind, words, answered):
    """Each answer is on the row that asked for it, each other row has an error; none is lost."""
    _, rows, collector = collected(web, kind, words)
    heard = {id: said(kind, row) for id, row in rows.items()}
    assert len([h for h in heard.values() if h is not None]) == answered
    assert all(h is None or h == f"say {id}" for id, h in heard.items())
    assert not collector.unmatched


@pytest.mark.parametrize("kind", DIALECT)
def test_a_batch_runs_is_listed_and_is_cancelled(web, kind):
    """Until its time has come."""
    made = batches.parse_state(create(web, kind, "batch_s=1000").json())
    assert made.running
    listed = web.get(
        "/v1beta/batches" if kind == "gemini" else PATHS[kind],
        headers={"x-goog-api-key": "k"} if kind == "gemini" else {},
    ).json()
    assert [made.id] == [batches.parse_state(b).id for b in listed.get("data") or listed["operations"]]
    end = ":cancel" if kind == "gemini" else "/cancel"
    assert not batches.parse_state(web.post(address(kind, made.id) + end).json()).running


def test_geminis_requests_may_stand_in_the_call(web):
    """As they came: in order, with their keys."""
    inner = [json.loads(line) for line in lines("gemini")]
    inner = [{"request": line["request"], "metadata": {"key": line["key"]}} for line in inner]
    body = {"batch": {"displayName": "d", "inputConfig": {"requests": {"requests": inner}}}}
    found = batches.parse_state(web.post("/v1beta/models/m:batchGenerateContent", json=body).json())
    rows = [batches.parse_outcome(v, ProviderSpec("p", "gemini", "https://host/v1")) for v in found.inline]
    assert [f"say {id}" for id in IDS] == [said("gemini", row) for row in rows]


GOOD = list(lines("openai"))


@pytest.mark.parametrize(
    ("made", "code"),
    [
        ([*GOOD, "{torn"], "invalid_json_line"),
        ([*GOOD, '{"custom_id": "x"}'], "invalid_json_line"),
        ([*GOOD, GOOD[0]], "duplicate_custom_id"),
        ([*GOOD, GOOD[0].replace("_0", "_9").replace('"m"', '"n"')], "model_mismatch"),
        ([*GOOD, GOOD[0].replace("/chat/completions", "/responses")], "url_mismatch"),
        ([""], "empty_file"),
    ],
)
def test_openais_faults_of_a_file_are_told_in_its_state(web, made, code):
    """The batch is made, and failed."""
    found = batches.parse_state(create(web, "openai", "", made).raise_for_status().json())
    assert (found.state, found.has_results) == ("failed", False)
    assert [p["code"] for p in found.problems] == [code]


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "mistral"])
def test_others_refuse_ids_that_stand_twice(web, kind):
    """At once."""
    made = list(lines(kind))
    assert create(web, kind, "", [*made, made[0]]).status_code == 400
    assert create(web, kind, "", []).status_code == 400


def test_tokens_that_wait_are_limited(web):
    """Until another batch has ended."""
    words = "batch_s=1000,enqueued=200"
    first = batches.parse_state(create(web, "openai", words).json())
    assert first.running
    assert batches.parse_state(create(web, "openai", words).json()).exceeds_token_limit
    web.post(f"/v1/batches/{first.id}/cancel")
    assert batches.parse_state(create(web, "openai", words).json()).running


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/batches/nobody", 404),
        ("GET", "/v1/files/nobody/content", 404),
        ("GET", "/v1/files/out-nobody/content", 404),
        ("POST", "/v1/batches", 400),
        ("POST", "/v1/files", 400),
        ("POST", "/v1/messages/batches", 400),
        ("POST", "/v1/batch/jobs", 400),
        ("POST", "/v1beta/models/m:batchGenerateContent", 400),
        ("POST", "/upload/v1beta/files", 400),
    ],
)
def test_odd_requests_are_refused(web, method, path, status):
    """In the provider's own form."""
    found = web.request(method, path, json={})
    assert found.status_code == status
    assert found.json()["error"]

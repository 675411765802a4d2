"""The official SDKs hand batches in at the simulator, watch them, read both files and cancel.

Needs openai, anthropic, google-genai and mistralai; where one is missing, its tests fail and say so.
"""

from __future__ import annotations

import importlib
import io
import json

import pytest

from nbllm.simulator import serve

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("default")]
IDS = [f"row-{i}" for i in range(5)]
CHAT = {"model": "sim", "max_tokens": 50}


def sdk(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.fail(f"CANNOT RUN: {error}. Run: bash .ci/real.sh", pytrace=False)


def ask(id):
    return [{"role": "user", "content": f"say {id}"}]


def lines(id="custom_id", body="body", **more):
    """A file of five requests."""
    made = [{id: i, **more, body: {**CHAT, "messages": ask(i)}} for i in IDS]
    return "\n".join(map(json.dumps, made)).encode()


@pytest.fixture(params=["", "batch_shuffle=1,batch_fail=2"])
def server(request):
    """A simulator, and how many lines it fails."""
    options = dict(o.split("=") for o in request.param.split(",") if o)
    with serve(ttft=0.0, gap=0.0, echo=True, **{k: int(v) for k, v in options.items()}) as running:
        running.fails = int(options.get("batch_fail", 0))
        yield running


@pytest.fixture
def slow():
    """A simulator whose batches do not end."""
    with serve(batch_s=1000.0) as running:
        yield running


def openai(server):
    return sdk("openai").OpenAI(base_url=server.base_url("openai_chat"), api_key="sk-test", max_retries=0)


def handed_in(client):
    data = lines(method="POST", url="/v1/chat/completions")
    file = client.files.create(file=("rows.jsonl", io.BytesIO(data)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "r"}
    )


def checked(server, answered, failed):
    """Each answer is its own row's, and all are there."""
    assert set(answered) | set(failed) == set(IDS)
    assert server.fails == len(failed)
    assert all(id in text for id, text in answered.items())


def test_openai(server):
    """Files, a batch in the list, and both files of results."""
    client = openai(server)
    made = client.batches.retrieve(handed_in(client).id)
    assert ("completed", {"run": "r"}) == (made.status, made.metadata)
    assert made.id in [b.id for b in client.batches.list(limit=10)]
    found = [json.loads(t) for t in client.files.content(made.output_file_id).text.splitlines()]
    bad = client.files.content(made.error_file_id).text.splitlines() if made.error_file_id else []
    said = {r["custom_id"]: r["response"]["body"]["choices"][0]["message"]["content"] for r in found}
    checked(server, said, [json.loads(t)["custom_id"] for t in bad])
    assert (5, 5 - server.fails) == (made.request_counts.total, made.request_counts.completed)


def test_openai_cancels(slow):
    client = openai(slow)
    made = handed_in(client)
    assert "in_progress" == made.status
    client.batches.cancel(made.id)
    assert client.batches.retrieve(made.id).status in ("cancelling", "cancelled")


def anthropic(server):
    return sdk("anthropic").Anthropic(base_url=server.base_url("anthropic"), api_key="k", max_retries=0)


def requests():
    return [{"custom_id": i, "params": {**CHAT, "messages": ask(i)}} for i in IDS]


def test_anthropic(server):
    """The requests in the call, the results line by line."""
    client = anthropic(server)
    made = client.messages.batches.create(requests=requests())
    made = client.messages.batches.retrieve(made.id)
    assert "ended" == made.processing_status
    assert made.id in [b.id for b in client.messages.batches.list()]
    said, failed = {}, []
    for line in client.messages.batches.results(made.id):
        if line.result.type == "succeeded":
            said[line.custom_id] = line.result.message.content[0].text
        else:
            failed.append(line.custom_id)
    checked(server, said, failed)
    assert server.fails == made.request_counts.errored


def test_anthropic_cancels(slow):
    client = anthropic(slow)
    made = client.messages.batches.create(requests=requests())
    assert "in_progress" == made.processing_status
    client.messages.batches.cancel(made.id)
    assert "ended" == client.messages.batches.retrieve(made.id).processing_status


def gemini(server):
    sdk("google.genai")
    from google import genai
    from google.genai import types

    options = types.HttpOptions(base_url=server.url, api_version="v1beta")
    return genai.Client(api_key="sk-test", http_options=options)


def contents(id):
    return [{"role": "user", "parts": [{"text": f"say {id}"}]}]


def test_gemini_inline(server):
    """The results stand in the answer."""
    client = gemini(server)
    src = [{"contents": contents(i), "metadata": {"key": i}} for i in IDS]
    made = client.batches.create(model="sim", src=src, config={"display_name": "d"})
    made = client.batches.get(name=made.name)
    assert "JOB_STATE_SUCCEEDED" == made.state.name
    assert made.name in [b.name for b in client.batches.list()]
    found = made.dest.inlined_responses
    said = {r.metadata["key"]: r.response.text for r in found if r.response}
    checked(server, said, [r.metadata["key"] for r in found if not r.response])


def test_gemini_file(server, tmp_path):
    """Uploaded by Google's own way, and the results downloaded."""
    client, path = gemini(server), tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"key": i, "request": {"contents": contents(i)}}) for i in IDS))
    file = client.files.upload(file=str(path), config={"mime_type": "jsonl"})
    made = client.batches.create(model="sim", src=file.name)
    made = client.batches.get(name=made.name)
    found = [json.loads(t) for t in client.files.download(file=made.dest.file_name).decode().splitlines()]
    said = {
        r["key"]: r["response"]["candidates"][0]["content"]["parts"][0]["text"]
        for r in found
        if "response" in r
    }
    checked(server, said, [r["key"] for r in found if "response" not in r])


def test_gemini_cancels(slow):
    client = gemini(slow)
    made = client.batches.create(model="sim", src=[{"contents": contents("x"), "metadata": {"key": "x"}}])
    client.batches.cancel(name=made.name)
    assert "CANCELLED" in client.batches.get(name=made.name).state.name


def mistral(server):
    try:
        from mistralai.client import Mistral
    except ImportError:
        Mistral = sdk("mistralai").Mistral
    return Mistral(api_key="k", server_url=server.url)


@pytest.mark.parametrize("inline", [False, True])
def test_mistral(server, inline):
    """A job of a file, or of requests in the call."""
    client = mistral(server)
    given = {"model": "sim", "endpoint": "/v1/chat/completions", "metadata": {"run": "r"}}
    if inline:
        rows = [{"custom_id": i, "body": {"max_tokens": 50, "messages": ask(i)}} for i in IDS]
        made = client.batch.jobs.create(requests=rows, **given)
    else:
        file = client.files.upload(file={"file_name": "rows.jsonl", "content": lines()}, purpose="batch")
        made = client.batch.jobs.create(input_files=[file.id], **given)
    made = client.batch.jobs.get(job_id=made.id)
    assert ("SUCCESS", {"run": "r"}) == (made.status, made.metadata)
    assert made.id in [b.id for b in client.batch.jobs.list().data]
    names = [made.output_file] + ([made.error_file] if made.error_file else [])
    found = [json.loads(t) for n in names for t in client.files.download(file_id=n).read().splitlines()]
    good = [r for r in found if r["response"]["status_code"] == 200]
    said = {r["custom_id"]: r["response"]["body"]["choices"][0]["message"]["content"] for r in good}
    checked(server, said, [r["custom_id"] for r in found if r["custom_id"] not in said])


def test_mistral_cancels(slow):
    client = mistral(slow)
    rows = [{"custom_id": "x", "body": {"max_tokens": 50, "messages": ask("x")}}]
    made = client.batch.jobs.create(requests=rows, model="sim", endpoint="/v1/chat/completions")
    client.batch.jobs.cancel(job_id=made.id)
    assert "CANCEL" in client.batch.jobs.get(job_id=made.id).status

"""Rows in batches at a server that goes away, forgets, and writes its results carelessly."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

import nbllm
from nbllm import Client
from nbllm.core.errors import NbllmError, NotFound, Overloaded, StreamCut
from nbllm.routing.registry import load
from nbllm.store.runs import RunFile

DAY = 90_000


def line(id, text="yes", status=200, **message):
    """A line of results."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}}
    body = {"model": "m", "choices": [{**choice, "finish_reason": "stop"}]}
    return {"custom_id": id, "response": {"status_code": status, "body": body}, "error": None}


class Server(ThreadingHTTPServer):
    """OpenAI's batches, in the state `status`. results: what makes its files of the ids of a batch; fault:
    what a request of such a method and path meets, a status, or None for a connection that is closed (after
    it was heard, where it creates a batch)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.made, self.status, self.fault = {}, {}, "completed", ("", 0)
        self.results = lambda ids: {"output": [line(id) for id in ids]}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        env = {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.server_port}/v1",
            "OPENAI_API_KEY": "sk-0123456789",
        }
        self.client = Client(load(env=env), ledger=None)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked, (pattern, status) = f"{self.command} {self.path}", self.server.fault
        faulty = bool(pattern) and bool(re.search(pattern, asked))
        if faulty and status:
            self.say({"error": {"message": "no"}}, status)
            return
        body = self.answer(asked, sent) if not faulty or "/v1/batches" in pattern else b""
        if faulty:
            self.close_connection = True
            return
        self.say(body, 200 if body is not None else 404)

    do_POST = do_GET

    def say(self, body, status):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self, asked, sent):
        server, last = self.server, asked.split("/")[3:]
        if asked == "POST /v1/files":
            server.files[f"file-{len(server.files)}"] = re.findall(rb'"custom_id":\s*"([^"]+)"', sent)
            return {"id": f"file-{len(server.files) - 1}"}
        if asked == "POST /v1/batches":
            about = json.loads(sent)
            ids = [id.decode() for id in server.files[about["input_file_id"]]]
            id = f"batch_{len(server.made)}"
            server.made[id] = (ids, {"metadata": about["metadata"], "created_at": int(time.time())})
            return self.shown(id)
        if asked.startswith("GET /v1/batches?"):
            return {"data": [self.shown(id) for id in server.made]}
        if last[-1] == "content":
            kind, _, id = last[0].partition("-")
            found = server.results(server.made[id][0]).get(kind)
            if isinstance(found, list):
                return "\n".join(map(json.dumps, found)).encode()
            return found
        return self.shown(last[0]) if last[0] in server.made else None

    def shown(self, id):
        ids, about = self.server.made[id]
        files = {f"{kind}_file_id": f"{kind}-{id}" for kind in self.server.results(ids)}
        return {"id": id, "status": self.server.status, **about, **files}

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_HOME", str(tmp_path))
    made = Server()
    yield made
    made.client.close()
    made.shutdown()
    made.server_close()


def handed_in(server, n=3):
    """A run of n rows, in a batch."""
    df = pd.DataFrame({"text": [f"row {i}" for i in range(n)]})
    options = {"model": "openai/m", "client": server.client, "mode": "batch", "confirm": "yes", "run": "r"}
    return nbllm.map(df, "Say: {text}", wait=False, **options)


def older(seconds):
    """Makes the batches of the run older than they are."""
    with RunFile("r", create=False) as file:
        for part in file.parts():
            file.save_part(part._replace(created=part.created - seconds))


@pytest.mark.slow
@pytest.mark.parametrize("status", [None, 500, 503, 429])
def test_waiting_outlives_a_server_that_is_away(server, status):
    """It goes on when that is back."""
    server.status = "in_progress"
    job, looks = handed_in(server), []

    def pause(seconds):
        looks.append(seconds)
        server.fault = ("GET", status) if len(looks) < 4 else ("", 0)
        server.status = "completed" if len(looks) == 6 else "in_progress"

    assert list(job.wait(pause).llm_status) == ["ok"] * 3
    assert len(looks) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("status", "kind"), [(None, StreamCut), (503, Overloaded)])
def test_waiting_ends_with_the_error_of_one_that_stays_away(server, status, kind):
    """Not at once, and its rows are there afterwards."""
    job, looks = handed_in(server), []
    server.fault = ("GET", status)
    with pytest.raises(kind):
        job.wait(looks.append)
    assert 10 <= len(looks) < 100
    server.fault = ("", 0)
    assert list(job.collect().llm_status) == ["ok"] * 3


@pytest.mark.slow
def test_what_the_provider_keeps_no_longer_can_be_asked_again(server):
    """A batch that is gone: its rows have failed, once it is older than providers keep them."""
    job = handed_in(server)
    kept = dict(server.made)
    server.made.clear()
    with pytest.raises(NotFound):
        job.poll()
    older(DAY)
    gone = job.collect()
    assert list(gone.llm_status) == ["failed"] * 3
    assert "no longer" in gone.llm_error[0]
    server.made.update(kept)
    again = nbllm.rows.retry(gone, client=server.client, confirm="yes")
    assert (len(server.made), list(again.llm_status)) == (2, ["ok"] * 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "states"), [("output", ["failed"] * 3), ("error", ["ok", "failed", "failed"])]
)
def test_a_file_of_results_that_is_gone_costs_its_own_rows(server, lost, states):
    """The other one is read."""
    server.results = lambda ids: {"output": [line(ids[0])], "error": [line(id, status=400) for id in ids[1:]]}
    job = handed_in(server)
    server.fault = (f"{lost}-batch", 404)
    with pytest.raises(NotFound):
        job.poll()
    older(DAY)
    assert list(job.collect().llm_status) == states


@pytest.mark.slow
def test_a_creation_whose_answer_is_lost_is_not_sent_again(server):
    """Not even over a connection that the server may have let go of: the batch is there, and is found."""
    server.fault = ("POST /v1/batches", None)
    with pytest.raises(NbllmError):
        handed_in(server)
    server.fault = ("", 0)
    assert list(handed_in(server).collect().llm_status) == ["ok"] * 3
    assert len(server.made) == 1


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda name: json.dumps(line(name, "yes?")).encode().replace(b"?", b"\xff"), "yes\ufffd"),
        (lambda name: json.dumps(line(name, status="200")).encode(), "yes"),
        (lambda name: b"\xef\xbb\xbf" + json.dumps(line(name)).encode(), "yes"),
    ],
)
def test_a_careless_line_is_an_answer(server, make, answer):
    """It has been paid."""
    server.results = lambda ids: {"output": b"\n".join(map(make, ids))}
    out = handed_in(server).collect()
    assert list(out.answer) == [answer] * 3


def test_a_model_that_refuses_has_not_answered(server):
    """Its words are the reason."""
    server.results = lambda ids: {"output": [line(id, None, refusal="I cannot help.") for id in ids]}
    out = handed_in(server).collect()
    assert list(out.llm_status) == ["failed"] * 3
    assert "I cannot help." in out.llm_error[0]

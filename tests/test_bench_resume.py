"""Going on with a run: what its file says is compared with this session's configuration, and never
believed."""

import contextlib
import copy
import json
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import nbllm
from nbllm.bench import store
from nbllm.client.client import Client
from nbllm.core import errors
from nbllm.routing.registry import load

pytestmark = pytest.mark.slow

ANSWER = b'{"id":"1","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"ok"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'  # noqa: E501
KEY = "sk-canary-0123456789abcdef0123456789"


class Listener:
    """A server that answers whatever is asked, and keeps what was sent."""

    def __init__(self):
        seen = self.seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(ANSWER)))
                self.end_headers()
                self.wfile.write(ANSWER)

            do_GET = do_POST

            def log_message(self, *args): ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    @property
    def asked(self):
        return [headers for path, headers, _ in self.seen if "completions" in path]


@pytest.fixture
def listen():
    """listen() -> a server of somebody's."""
    made = []

    def make():
        made.append(Listener())
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def client():
    """client(rows, env) -> a client with those rows, and no others of the user's."""
    made = []

    def make(rows=(), **env):
        registry = load(env=env)
        for name, table in dict(rows).items():
            registry.register(name, table)
        made.append(Client(registry))
        return made[-1]

    yield make
    for one in made:
        one.close()


def begun(tmp_path, client, model, **options):
    """A run of four requests that has ended after two, by a budget that is no more."""
    nbllm.bench.run(
        model,
        "Go.",
        blocks=4,
        warmup=0,
        budget={"requests": 2},
        progress=False,
        directory=tmp_path / "run",
        client=client,
        **options,
    )
    left = job(tmp_path / "run")
    left["rules"]["budget"] = {}
    rewrite(tmp_path / "run", left)
    return tmp_path / "run"


def job(place):
    with store.Store(place) as kept:
        return kept.get("job")


def rewrite(place, job):
    with store.Store(place) as kept:
        kept.put(job=job)


def written(place, job):
    """A run's folder as somebody else may have made it: this job, and no rows."""
    with store.Store(place, create=True) as kept:
        kept.put(run_id="theirs")
        kept.put(job=job)
    return place


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The job of a run of one simulated model."""
    place = tmp_path_factory.mktemp("plain") / "run"
    nbllm.bench.run("sim/openai@ttft=0,tokens=2", "Go.", blocks=2, warmup=0, progress=False, directory=place)
    return job(place)


def row(server, **more):
    return {"base_url": f"{server.url}/v1", "key_env": ["ACME_API_KEY"], "models": "/models", **more}


OLD = {
    "name": "acme",
    "dialect": "openai_chat",
    "key_env": ["OPENAI_API_KEY"],
    "base_url_env": [],
    "prefixes": [],
    "bare": [],
    "headers": {},
    "local": True,
    "label": "",
    "default_model": "",
    "models": "",
    "key_url": "",
    "price": "",
    "quirks": {
        "max_tokens_field": "",
        "system_role": "system",
        "stream_usage": True,
        "reasoning_field": "",
        "thinking_switch": False,
        "cannot": [],
    },
    "query": {},
    "key_header": "",
    "opencode": "",
    "facts": {},
    "verified": [],
    "refused": "",
    "source": "",
    "held": [],
    "command": [],
    "passes": [],
    "oauth": None,
}


@pytest.mark.parametrize(
    "provider",
    [
        {"base_url": "URL/v1"},
        {"base_url": "URL/v1", "name": "custom"},
        {"base_url": "URL/v1", "name": "openai"},
        {"base_url": "URL/v1", "name": "openai", "key_env": ["HOME"]},
        {"base_url": "URL/v1", "name": "ollama", "dialect": "ollama", "local": True},
        {"base_url": "URL/v1", "headers": {"x-secret": "${OPENAI_API_KEY}"}},
        {"base_url": "URL/v1", "query": {"key": "${OPENAI_API_KEY}"}},
        {"base_url": "URL/${OPENAI_API_KEY}"},
        {"base_url": "", "base_url_env": ["THEIRS"]},
        {
            "base_url": "https://api.openai.com/v1",
            "name": "openai",
            "models": "@127.0.0.1:1/models",
            "base_url_env": ["THEIRS"],
        },
        {"base_url": "cli://sh", "dialect": "cli_text", "command": ["sh", "-c", "touch MARK/RAN; cat"]},
        {
            "base_url": "cli://sh",
            "name": "cli/claude",
            "dialect": "cli_text",
            "command": ["sh", "-c", "touch MARK/RAN; cat"],
        },
        {
            "base_url": "cli://claude",
            "name": "cli/claude",
            "dialect": "cli_claude",
            "command": ["sh", "-c", "touch MARK/RAN; cat"],
            "passes": ["OPENAI_API_KEY"],
        },
        {
            "base_url": "http://127.0.0.1:9",
            "dialect": "opencode_server",
            "command": ["sh", "-c", "touch MARK/RAN; cat"],
        },
    ],
)
def test_a_strangers_run_takes_nothing_and_runs_nothing(tmp_path, listen, client, plain, provider):
    """Whatever provider it describes: no key, no command, no address out of the file."""
    server = listen()
    mine = client(OPENAI_API_KEY=KEY, THEIRS=server.url)
    described = OLD | {
        k: v.replace("URL", server.url) if isinstance(v, str) else v for k, v in provider.items()
    }
    described["command"] = [word.replace("MARK", str(tmp_path)) for word in described["command"]]
    for asked in ("acme/m", "openai/m", "m", "auto", "cli/claude/m", "sim/openai"):
        for simulated in (False, True):
            theirs = copy.deepcopy(plain)
            theirs["arms"][0] |= {
                "provider": described,
                "asked": asked,
                "model": "m",
                "simulated": simulated,
                "name": "x",
            }
            place = written(tmp_path / "run", theirs)
            with pytest.raises(errors.ConfigError):
                nbllm.bench.resume(place, progress=False, client=mine)
            with pytest.raises(errors.ConfigError):
                nbllm.bench.resume(place, progress=False, client=mine, api_key={"x": KEY})
    assert [] == server.seen
    assert not (tmp_path / "RAN").exists()


CHANGES = [
    {"base_url": "http://127.0.0.1:1/v1"},
    {"base_url": "https://api.openai.com/v1"},
    {"dialect": "openai_responses"},
    {"dialect": "cli_text"},
    {"name": "openai"},
    {"command": ["sh"]},
    {"key_env": ["OPENAI_API_KEY"]},
    {"key_env": []},
    {"base_url_env": ["THEIRS"]},
    {"passes": ["HOME"]},
    {"opencode": "anthropic"},
    {"key_header": "x-api-key"},
    {"headers": {"x-other": "1"}},
    {"headers": {}},
    {"query": {"v": "2"}},
    {"origin": "http://127.0.0.1:1"},
]
MODELS = [
    {"model": "other"},
    {"simulated": True},
    {"asked": "acme/other"},
    {"asked": "openai/m"},
    {"asked": "sim/openai"},
]


def test_a_difference_is_refused_and_named(tmp_path, listen, client):
    """The message says which entry, what it was and what it is, and what to do. Also where another model
    would be asked, or one for real where the simulator had answered."""
    server = listen()
    mine = client({"acme": row(server, headers={"x-team": "blue"})}, ACME_API_KEY=KEY, OPENAI_API_KEY=KEY)
    place = begun(tmp_path, mine, "acme/m")
    before, whole = len(server.seen), job(place)
    for change in (*CHANGES, *MODELS):
        changed = copy.deepcopy(whole)
        (changed["arms"][0]["provider"] if change in CHANGES else changed["arms"][0]).update(change)
        rewrite(place, changed)
        with pytest.raises(errors.ConfigError) as caught:
            nbllm.bench.resume(place, progress=False, client=mine)
        assert "bench.run" in caught.value.hint
        assert change in MODELS or next(iter(change)) in caught.value.message
    assert before == len(server.seen)
    rewrite(place, whole)
    assert 4 == len(nbllm.bench.resume(place, progress=False, client=mine))


def test_what_is_not_set_any_more_does_not_go_out_as_it_is_written(tmp_path, listen, client):
    """${NAME} in headers, query and address: filled in from this session, refused where it is not set. The
    file has no value."""
    server = listen()
    rows = {
        "acme": row(
            server,
            base_url=server.url + "/${ACME_PATH}/v1",
            headers={"x-token": "${ACME_TOKEN}", "x-plain": "secret-in-the-row"},
            query={"version": "${ACME_VERSION}"},
        )
    }
    env = {
        "ACME_PATH": "secret-path-1",
        "ACME_TOKEN": "secret-token-1",
        "ACME_VERSION": "secret-version-1",
        "ACME_API_KEY": KEY,
    }
    place = begun(tmp_path, client(rows, **env), "acme/m")
    job_text = json.dumps(job(place))
    assert [] == [value for value in (*env.values(), "secret-in-the-row") if value in job_text]
    for missing in ("ACME_PATH", "ACME_TOKEN", "ACME_VERSION"):
        with pytest.raises(errors.ConfigError, match=missing):
            nbllm.bench.resume(
                place, progress=False, client=client(rows, **{k: v for k, v in env.items() if k != missing})
            )
    df = nbllm.bench.resume(
        place,
        progress=False,
        client=client(rows, **env | {"ACME_TOKEN": "secret-token-2", "ACME_API_KEY": KEY[::-1]}),
    )
    assert [True] * 4 == list(df["ok"])
    assert ["secret-token-1"] * 2 + ["secret-token-2"] * 2 == [h["x-token"] for h in server.asked]
    assert [f"Bearer {KEY}"] * 2 + [f"Bearer {KEY[::-1]}"] * 2 == [h["authorization"] for h in server.asked]
    assert {"/secret-path-1/v1/chat/completions?version=secret-version-1"} == {
        path for path, _, _ in server.seen if "completions" in path
    }


def test_a_row_of_the_session_is_given_again(tmp_path, listen, client):
    """nbllm.register_provider: without it the run does not go on, and the message says whose row is
    missing."""
    server = listen()
    place = begun(tmp_path, client({"acme": row(server)}, ACME_API_KEY=KEY), "acme/m")
    with pytest.raises(errors.ConfigError, match="acme"):
        nbllm.bench.resume(place, progress=False, client=client(ACME_API_KEY=KEY))
    elsewhere = listen()
    with pytest.raises(errors.ConfigError, match="base_url"):
        nbllm.bench.resume(place, progress=False, client=client({"acme": row(elsewhere)}, ACME_API_KEY=KEY))
    assert [] == elsewhere.seen
    assert 4 == len(
        nbllm.bench.resume(place, progress=False, client=client({"acme": row(server)}, ACME_API_KEY=KEY))
    )


def test_an_address_that_was_given_by_hand_is_given_again(tmp_path, listen, client):
    """The hint is the words to type; the key goes with it only where it is given again too."""
    server = listen()
    model = {"model": "m", "base_url": f"{server.url}/v1", "api_key": KEY, "name": "mine"}
    place = begun(tmp_path, client(), model)
    assert KEY not in json.dumps(job(place))
    with pytest.raises(errors.ConfigError, match="mine") as caught:
        nbllm.bench.resume(place, progress=False, client=client())
    assert f"base_url={{'mine': '{server.url}/v1'}}" in caught.value.hint
    with pytest.raises(errors.ConfigError, match="not a model of this run"):
        nbllm.bench.resume(place, progress=False, client=client(), base_url={"yours": f"{server.url}/v1"})
    with pytest.raises(errors.ConfigError):
        nbllm.bench.resume(place, progress=False, client=client(), base_url={"mine": "http://127.0.0.1:1/v1"})
    df = nbllm.bench.resume(
        place, progress=False, client=client(OPENAI_API_KEY=KEY), base_url={"mine": f"{server.url}/v1"}
    )
    assert 4 == len(df)
    assert [f"Bearer {KEY}"] * 2 == [h["authorization"] for h in server.asked if "authorization" in h]


def test_a_format_that_was_given_by_hand_is_given_again(tmp_path, listen, client):
    """dialect= likewise."""
    server = listen()
    mine = client({"acme": row(server)}, ACME_API_KEY=KEY)
    place = begun(tmp_path, mine, {"model": "acme/m", "dialect": "openai_responses"})
    with pytest.raises(errors.ConfigError, match="dialect"):
        nbllm.bench.resume(place, progress=False, client=mine)
    assert 4 == len(
        nbllm.bench.resume(place, progress=False, client=mine, dialect={"acme/m": "openai_responses"})
    )


def test_an_address_with_a_password_in_it_is_not_written_down(tmp_path, listen, client):
    """Userinfo and what stands behind a ? are no part of what the file says."""
    server = listen()
    url = f"{server.url}/v1".replace("//", "//user:hunter2hunter2@")
    try:
        place = begun(tmp_path, client(), {"model": "m", "base_url": url, "name": "mine"})
    except errors.ConfigError:
        return  # such an address is refused altogether
    assert "hunter2" not in json.dumps(job(place))


def test_auto_goes_on_with_the_model_that_was_chosen(tmp_path, listen, client):
    """A key more, and auto would be another: the run stays with its own."""
    mine = client()
    place = begun(tmp_path, mine, {"model": "auto", "name": "best"})
    told = job(place)["arms"][0]
    assert ("auto", True) == (told["asked"], told["simulated"])
    assert 4 == len(nbllm.bench.resume(place, progress=False, client=client(OPENAI_API_KEY=KEY)))


def test_a_file_gives_an_agent_no_licence(tmp_path, client):
    """What a command may do, and where, is said by the user and nobody else."""
    mine = client({"cli/it": {"command": ["sh", "-c", f"touch {tmp_path}/RAN; cat"], "dialect": "cli_text"}})
    place = begun(tmp_path, mine, "cli/it/m")
    (tmp_path / "RAN").unlink()
    whole = job(place)
    for options in ({"allowed_tools": ["Bash"]}, {"permission_mode": "bypassPermissions"}, {"cwd": "/"}):
        for where in ("arms", "prompts"):
            changed = copy.deepcopy(whole)
            changed[where][0]["options"] = {"extra": options}
            rewrite(place, changed)
            with pytest.raises(errors.ConfigError, match="may not set options"):
                nbllm.bench.resume(place, progress=False, client=mine)
    assert not (tmp_path / "RAN").exists()


def broken(value, path=()):
    """Every way to break one place of a JSON value."""
    if isinstance(value, dict):
        for key in value:
            yield (*path, key), None
            yield from broken(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from broken(value[0], (*path, 0))


def test_a_job_that_is_none_is_an_error_of_ours(tmp_path, client, plain):
    """Anything missing, or of another kind, at any place: ConfigError, or nothing to do; never a raw
    KeyError."""
    mine, wrong = client(), []
    whole = plain | {"turns": [plain["turns"][0] | {"slots": []}]}  # nothing is left to be done
    for path, _ in broken(whole):
        for value in ("GONE", "x", 7, None, ["x"], {"x": "y"}):
            changed = copy.deepcopy(whole)
            at = changed
            for step in path[:-1]:
                at = at[step]
            if value == "GONE":
                del at[path[-1]]
            else:
                at[path[-1]] = value
            place = written(tmp_path / "run", changed)
            try:
                nbllm.bench.resume(place, progress=False, client=mine)
            except errors.ConfigError:
                continue
            except Exception as error:  # noqa: BLE001
                wrong.append((path, value, type(error).__name__, str(error)))
    assert [] == wrong


def test_a_run_of_an_earlier_version_goes_on_and_one_of_a_later_is_told(tmp_path, client, plain):
    """Its file had no version, and no class beside the fields of a message."""
    earlier = copy.deepcopy(plain)
    del earlier["version"]
    for turn in earlier["prompts"][0]["turns"]:
        for message in turn:
            del message["type"]
            message["parts"] = [{"type": "Text", "signature": None, **part} for part in message["parts"]]
    assert 2 == len(nbllm.bench.resume(written(tmp_path / "a", earlier), progress=False, client=client()))
    later = written(tmp_path / "b", plain | {"version": plain["version"] + 1})
    with pytest.raises(errors.ConfigError, match=r"later nbllm(?s:.*)Update"):
        nbllm.bench.resume(later, progress=False, client=client())


@pytest.mark.parametrize(("arm", "prompt"), [(9, 0), (-1, 0), (0, 9), (0, -1)])
def test_a_turn_of_no_model_or_prompt_is_an_error_of_ours(tmp_path, client, plain, arm, prompt):
    """A plan that points out of its lists."""
    turn = plain["turns"][0]
    place = written(tmp_path / "run", plain | {"turns": [turn | {"arm": arm, "slots": [[0, prompt, None]]}]})
    with pytest.raises(errors.ConfigError, match="cannot be read"):
        nbllm.bench.resume(place, progress=False, client=client())


FORMER = """
create table meta (name text primary key, value text not null);
create table rows (request_id text, attempt integer, seq integer, data text not null, primary key (request_id, attempt));
create table chunks (request_id text primary key, data text not null);
create table done (slot text primary key);
insert into meta values ('run_id', '"before"');
insert into rows values ('a', 1, 0, '{"request_id": "a", "attempt": 1, "seq": 0, "name": "m", "status": "ok"}');
"""  # noqa: E501


def test_a_file_of_a_former_version_is_read_and_left_as_it_is(tmp_path):
    """Reading one writes nothing, so that somebody else's may be read beside its run."""
    path = tmp_path / store.FILE
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("pragma journal_mode=wal")
        db.executescript(FORMER)
    before = path.read_bytes()
    found = nbllm.bench.load(tmp_path)
    assert [("before", "a", "m", "ok")] == list(
        found[["run_id", "request_id", "name", "status"]].itertuples(index=False, name=None)
    )
    assert before == path.read_bytes()


def test_a_link_in_place_of_a_run_s_file_is_not_followed(tmp_path):
    """Neither one that leads somewhere nor one that leads nowhere."""
    (tmp_path / "other.sqlite").write_bytes(b"")
    for name in ("other.sqlite", "nowhere.sqlite"):
        place = tmp_path / f"run-{name}"
        place.mkdir()
        (place / store.FILE).symlink_to(tmp_path / name)
        for create in (False, True):
            with pytest.raises(errors.ConfigError):
                store.Store(place, create=create)
    assert b"" == (tmp_path / "other.sqlite").read_bytes()


def test_two_sessions_do_not_go_on_with_one_run(tmp_path, client):
    """The second is told so before anything is sent twice; when the first has ended, it may."""
    mine = client()
    place = begun(tmp_path, mine, "sim/openai@ttft=0,tokens=2")
    with store.lock_run(place), pytest.raises(errors.ConfigError, match="open in another") as caught:
        nbllm.bench.resume(place, progress=False, client=mine)
    assert "bench.run" in caught.value.hint
    assert ["ok"] * 4 == nbllm.bench.resume(place, progress=False, client=mine)["status"].tolist()

"""The module's functions, on one client that is made at the first use."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Unpack

from ..core.errors import ConfigError
from ..core.values import DEFAULT_BUDGET
from .client import CallOptions, Client, seal_key
from .tracing import make_tracing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    import pandas as pd

    from ..core.calls import ProviderSpec
    from ..core.events import Response
    from ..core.messages import Document, Image, Message, Text
    from ..core.prompt import Prompt
    from ..store.recordings import Recording, Tape
    from .catalog import Health
    from .stream import Stream
    from .tokens import TokenEstimate

_lock = threading.Lock()
_client: Client | None = None


def default_client() -> Client:
    """The client behind `nbllm.stream` and the magics."""
    global _client  # noqa: PLW0603 - the one shared client, guarded by the lock
    with _lock:
        if _client is None:
            _client = Client()
        return _client


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise ConfigError(f"{name}= takes text, and no {type(given).__name__}.", hint="Check the call.")
    return given


def stream(prompt: Prompt, model: str = "auto", **options: Unpack[CallOptions]) -> Stream:
    """Asks a model and returns its reply at once, as a Stream that grows. Options as in Client.stream."""
    options = seal_key(options)
    return default_client().stream(prompt, model, **options)


def complete(prompt: Prompt, model: str = "auto", **options: Unpack[CallOptions]) -> Response:
    """Asks a model and waits for its Response. Options as in Client.stream. Works inside a running event loop
    too."""
    options = seal_key(options)
    return default_client().complete(prompt, model, **options)


def resume(messages: Sequence[Message], model: str = "auto", **options: Unpack[CallOptions]) -> Response:
    """Goes on with a conversation that broke off in the middle of its tools, such as
    `error.partial.conversation`: calls that have no result are run first. Options as in Client.stream.
    Raises ConfigError for tools without code."""
    if not options.get("tools"):
        raise ConfigError(
            "Nothing can go on without tools.", hint="Give the tools that were used: tools=[...]."
        )
    return complete(list(messages), model, **options)


def record(path: str | Path) -> AbstractContextManager[Recording]:
    """Within a `with`, calls are written to a file, from which `replay` answers them."""
    return default_client().tapes.record(path)


def replay(path: str | Path, pace: str = "now") -> AbstractContextManager[Tape]:
    """Within a `with`, calls are answered from a file that `record` made: no key is needed, and nothing is
    sent. pace: "recorded" keeps the times at which events came. Raises ConfigError for another file; a call
    that is not in it does so too, and names the nearest."""
    return default_client().tapes.replay(path, pace)


def trace(
    on: bool = True, *, content: bool = False, tracer_provider: Any = None, meter_provider: Any = None
) -> None:
    """Turns spans and metrics of OpenTelemetry for all further calls of the process on, or off. content: with
    prompts, answers, and what tools are given and give. Without providers, those that are set for the process
    get them. Raises ConfigError where opentelemetry-api is not installed."""
    given = {"content": content, "tracer_provider": tracer_provider, "meter_provider": meter_provider}
    default_client().tracing = make_tracing(**given) if on else None


def resource(address: str, budget: int = DEFAULT_BUDGET) -> list[Text | Image | Document]:
    """What an MCP server has at mcp://SERVER/RESOURCE (a resource's name or its own address), as parts of a
    prompt: text of at most `budget` tokens, pictures, PDFs. Raises ConfigError for what is not there, not
    allowed or nothing that models read, and the error that kept the server from reading it."""
    client = default_client()
    return client.run(client.mcp.resource(_text("address", address), budget))


def server_prompt(name: str, **arguments: str) -> list[Message]:
    """The prompt SERVER/NAME of an MCP server, filled, as messages. Raises as `resource` does."""
    client = default_client()
    server, _, prompt = name.removeprefix("mcp/").partition("/")
    return client.run(client.mcp.prompt(server, prompt, arguments))


def providers(*, ask: bool = True) -> pd.DataFrame:
    """One row a provider: name, label, mode (api, local, headless), dialect, base_url, where its key was
    found, whether its server answers, whether it is ready, why not, and the file that the row comes from.
    Warns of what is wrong in configuration files. ask: try for a connection where there is a key, or the
    provider is local (0.5 s for all)."""
    import pandas as pd

    from .catalog import provider_states

    client = default_client()
    for problem in client.registry.problems:
        warnings.warn(f"nbllm ignores a part of its configuration: {problem}", stacklevel=2)
    return pd.DataFrame([asdict(s) for s in provider_states(client, connect=ask)])


def models(prefix: str = "", *, fresh: bool = False) -> pd.DataFrame:
    """One row a model that a provider lists itself: name (as model= takes it), provider, id, context in
    tokens, input and output price in US dollars for a million tokens; NA where it is not known.

    prefix: "gemini/" or "gemini/gemini-2" asks that provider; "" asks every ready one. A list is kept for a
    day; fresh asks again.
    """
    import pandas as pd

    from .catalog import ModelInfo, list_models

    frame = pd.DataFrame(
        [asdict(m) for m in list_models(default_client(), _text("prefix", prefix), fresh=fresh)],
        columns=list(ModelInfo.__slots__),
    )
    return frame.astype({"context": "Int64", "input_price": "Float64", "output_price": "Float64"})


def health(name: str) -> Health:
    """Whether a provider is reachable and takes the key, and how fast it answered. Raises ConfigError for an
    unknown name."""
    from .catalog import health as ask

    return ask(default_client(), _text("name", name))


def estimate_tokens(text: str, model: str = "auto") -> TokenEstimate:
    """(tokens, method, bound): the tokens in `text` for `model`, how they were counted, and the largest
    relative error to be expected, 0.0 for an exact count. Asks the provider where it counts itself; raises
    ConfigError for an unknown model."""
    from .tokens import estimate_tokens as count

    return count(default_client(), _text("text", text), model)


def unload(model: str | None = None) -> list[str]:
    """Has a model leave the memory of this machine: one in a file, or of an Ollama server; without a name
    those in files that this process has loaded. Gives the names of those that were told. Raises ConfigError
    for a model that cannot be told, or that answers now."""
    from .unloading import unloaded

    return unloaded(default_client(), model)


def register_provider(name: str, **entries: Any) -> ProviderSpec:
    """Adds a provider, or changes one, for this process and above all configuration files. The entries are
    those of a provider's table in TOML: `register_provider("acme", base_url="https://llm.acme.example/v1",
    key_env="ACME_API_KEY")`. Where a known provider moves to another host, its key variables stay behind
    unless key_env names them. Raises ConfigError for a wrong entry."""
    return default_client().registry.register(name, entries)


def embed(texts: Any, model: str = "auto", **options: Any) -> pd.DataFrame:
    """One row a text, in the texts' order and with their index: `embedding` (a float32 array), `status`,
    `input_tokens` and `cost` in US dollars (its share of its request's, by length); totals and the model are
    in `attrs`.

    texts: a list, a column of a DataFrame, or one text. Empty and missing ones are not asked, and those that
    the provider refuses as too long are left out: their arrays hold NaN, and status says why. model: a full
    name, or a short one of the provider's row (openai/small, gemini/embedding). dimensions: how long the
    vectors should be, where the model can. purpose: "document" for what is looked through, "query" for what
    is looked for; models that know no difference embed both alike. batch: texts in one request. Further
    options: base_url, dialect, api_key, timeout, retries, cache, extra, and budget (of all requests
    together), as in Client.stream.

    Raises ConfigError for what is wrong on this side. An error of the provider's, and an interrupt, carry the
    DataFrame with what had come in `.partial`.
    """
    from .embeddings import embed as ask

    return ask(default_client(), texts, model, **options)


def nearest(
    question: Any, embedded: pd.DataFrame, k: int = 5, *, model: str | None = None, **options: Any
) -> pd.DataFrame:
    """The k rows of what `embed` gave that are most like the question, the most like first, with their cosine
    `similarity` in place of the vector; rows without a vector are never among them.

    question: a text, which is embedded as a query by the model of the rows (or by `model`), or a vector.
    Options as in embed. Raises ConfigError where vectors are of different lengths.
    """
    from .embeddings import nearest as find

    return find(default_client(), question, embedded, k, model, **options)

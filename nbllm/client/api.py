"""The public functions of the package, on one client that is created at the first use."""

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


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name}= takes text, not {type(value).__name__}.", hint="Pass a string.")
    return value


def stream(prompt: Prompt, model: str = "auto", **options: Unpack[CallOptions]) -> Stream:
    """Sends a prompt to a model and returns its reply at once, as a Stream that grows. Options as in
    Client.stream."""
    options = seal_key(options)
    return default_client().stream(prompt, model, **options)


def complete(prompt: Prompt, model: str = "auto", **options: Unpack[CallOptions]) -> Response:
    """Sends a prompt to a model and waits for its Response. Options as in Client.stream. Works inside a
    running event loop, too."""
    options = seal_key(options)
    return default_client().complete(prompt, model, **options)


def resume(messages: Sequence[Message], model: str = "auto", **options: Unpack[CallOptions]) -> Response:
    """Continues a conversation that was interrupted while its tools ran, such as
    `error.partial.conversation`: calls without a result are run first. Options as in Client.stream. Raises
    ConfigError without tools."""
    if not options.get("tools"):
        raise ConfigError(
            "resume needs the tools of the conversation.", hint="Pass the tools that were used: tools=[...]."
        )
    return complete(list(messages), model, **options)


def record(path: str | Path) -> AbstractContextManager[Recording]:
    """Within a `with`, calls are recorded in a file, from which `replay` answers them."""
    return default_client().tapes.record(path)


def replay(path: str | Path, pace: str = "now") -> AbstractContextManager[Tape]:
    """Within a `with`, calls are answered from a file that `record` wrote: no key is needed, and nothing is
    sent. pace: "recorded" keeps the recorded times between events. Raises ConfigError for another kind of
    file; so does a call that is not in it, and names the most similar one."""
    return default_client().tapes.replay(path, pace)


def trace(
    on: bool = True, *, content: bool = False, tracer_provider: Any = None, meter_provider: Any = None
) -> None:
    """Turns OpenTelemetry's spans and metrics on or off for all further calls of the process. content:
    include prompts, answers, and the arguments and results of tools. Providers default to those set for the
    process. Raises ConfigError where opentelemetry-api is not installed."""
    providers = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
    default_client().tracing = make_tracing(content=content, **providers) if on else None


def resource(address: str, budget: int = DEFAULT_BUDGET) -> list[Text | Image | Document]:
    """Reads an MCP resource at mcp://SERVER/RESOURCE (its name or its own URI) as parts of a prompt: text of
    at most `budget` tokens, images, PDFs. Raises ConfigError for one that does not exist, is not allowed or
    is nothing that models read, and the server's error."""
    client = default_client()
    return client.run(client.mcp.resource(_text("address", address), budget))


def server_prompt(name: str, **arguments: str) -> list[Message]:
    """The prompt SERVER/NAME of an MCP server, filled in, as messages. Raises as `resource` does."""
    client = default_client()
    server, _, prompt = name.removeprefix("mcp/").partition("/")
    return client.run(client.mcp.prompt(server, prompt, arguments))


def providers(*, ask: bool = True) -> pd.DataFrame:
    """One row per provider: name, label, mode (api, local, headless), dialect, base_url, where its key was
    found, whether its server answers, whether it is ready, why not, and the file that defines it. Warns of
    mistakes in configuration files. ask: try to connect to providers with a key and to local ones (0.5 s for
    all)."""
    import pandas as pd

    from .catalog import provider_states

    client = default_client()
    for problem in client.registry.problems:
        warnings.warn(f"nbllm ignores a part of its configuration: {problem}", stacklevel=2)
    return pd.DataFrame([asdict(s) for s in provider_states(client, connect=ask)])


def models(prefix: str = "", *, fresh: bool = False) -> pd.DataFrame:
    """One row per model in the providers' lists: name (as model= takes it), provider, id, context window in
    tokens, input and output price in US dollars per million tokens; NA where unknown.

    prefix: "gemini/" or "gemini/gemini-2" is for that provider; "" for all ready ones. Lists are cached for a
    day; fresh=True requests them again.
    """
    import pandas as pd

    from .catalog import ModelInfo, list_models

    frame = pd.DataFrame(
        [asdict(m) for m in list_models(default_client(), _text("prefix", prefix), fresh=fresh)],
        columns=list(ModelInfo.__slots__),
    )
    return frame.astype({"context": "Int64", "input_price": "Float64", "output_price": "Float64"})


def health(name: str) -> Health:
    """Whether a provider is reachable and accepts the key, and how fast it answered. Raises ConfigError for
    an unknown name."""
    from .catalog import health as check

    return check(default_client(), _text("name", name))


def estimate_tokens(text: str, model: str = "auto") -> TokenEstimate:
    """(tokens, method, bound): the tokens in `text` for `model`, how they were counted, and the largest
    relative error to expect, 0.0 for an exact count. Uses the provider's API where it has one for this.
    Raises ConfigError for an unknown model."""
    from .tokens import estimate_tokens as count

    return count(default_client(), _text("text", text), model)


def unload(model: str | None = None) -> list[str]:
    """Unloads a model from memory: one in a file, or of an Ollama server; without a name those in files that
    this process has loaded. Returns their names. Raises ConfigError for a model that cannot be unloaded, or
    that is answering now."""
    from .unloading import unload_models

    return unload_models(default_client(), model)


def register_provider(name: str, **entries: Any) -> ProviderSpec:
    """Adds or changes a provider for this process; it takes precedence over all configuration files. The
    entries are those of a provider's table in TOML: `register_provider("acme",
    base_url="https://llm.acme.example/v1", key_env="ACME_API_KEY")`. Where a known provider moves to another
    host, its key variables are not used there unless key_env names them. Raises ConfigError for a wrong
    entry."""
    return default_client().registry.register(name, entries)


def embed(texts: Any, model: str = "auto", **options: Any) -> pd.DataFrame:
    """One row per text, in the texts' order and with their index: `embedding` (a float32 array), `status`,
    `input_tokens` and `cost` in US dollars (its share of its request's, by length); totals and the model are
    in `attrs`.

    texts: a list, a column of a DataFrame, or one text. Empty and missing ones are not sent, and those that
    the provider refuses as too long are skipped: their arrays hold NaN, and status says why. model: a full
    name, or one of the provider's short names (openai/small, gemini/embedding). dimensions: the length of the
    vectors, where the model supports it. purpose: "document" for texts to be searched, "query" for what is
    searched for; some models embed both alike. batch: texts per request. Further options: base_url, dialect,
    api_key, timeout, retries, cache, extra, and budget (for all requests together), as in Client.stream.

    Raises ConfigError for invalid arguments. A provider's error and an interrupt carry the DataFrame so far
    in `.partial`.
    """
    from .embeddings import embed as embed_texts

    return embed_texts(default_client(), texts, model, **options)


def nearest(
    question: Any, embedded: pd.DataFrame, k: int = 5, *, model: str | None = None, **options: Any
) -> pd.DataFrame:
    """The k rows of a DataFrame from `embed` that are most similar to the question, the most similar first,
    with their cosine `similarity` in place of the vector; rows without a vector are left out.

    question: a text, which is embedded as a query by the model of the rows (or by `model`), or a vector.
    Options as in embed. Raises ConfigError where vectors have different lengths.
    """
    from .embeddings import nearest as find

    return find(default_client(), question, embedded, k, model, **options)

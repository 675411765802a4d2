"""The module's functions, on one client that is made at the first use."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Unpack

from .client import CallOptions, Client, sealed

if TYPE_CHECKING:
    import pandas as pd

    from .events import Response
    from .prompt import Prompt
    from .streams import Stream

_lock = threading.Lock()
_client: Client | None = None


def default_client() -> Client:
    """The client behind `nbllm.stream` and the magics."""
    global _client  # noqa: PLW0603 - the one shared client, guarded by the lock
    with _lock:
        if _client is None:
            _client = Client()
        return _client


def stream(prompt: Prompt, model: str = "auto", **options: Unpack[CallOptions]) -> Stream:
    """Asks a model and returns its reply at once, as a Stream that grows. Options as in Client.stream."""
    options = sealed(options)
    return default_client().stream(prompt, model, **options)


def complete(prompt: Prompt, model: str = "auto", **options: Unpack[CallOptions]) -> Response:
    """Asks a model and waits for its Response. Options as in Client.stream. Works inside a running event loop too."""
    options = sealed(options)
    return default_client().complete(prompt, model, **options)


def providers(*, ask: bool = True) -> pd.DataFrame:
    """One row a provider: name, label, dialect, base_url, where its key was found, whether its server answers, whether it
    is ready, and why not."""
    import pandas as pd

    from .catalog import states

    return pd.DataFrame([asdict(s) for s in states(default_client(), ask=ask)])


def models(prefix: str = "") -> pd.DataFrame:
    """One row a model that a provider lists itself: name (as model= takes it), provider, id, context size in tokens.

    prefix: "gemini/" or "gemini/gemini-2" asks that provider; "" asks every ready one.
    """
    import pandas as pd

    from .catalog import list_models

    frame = pd.DataFrame([asdict(m) for m in list_models(default_client(), prefix)],
                         columns=["name", "provider", "id", "context", "created"])
    return frame.astype({"context": "Int64"})

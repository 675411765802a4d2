"""Embeddings: texts are grouped into requests, and each gets a vector or the reason why it has none.

Every request is an ordinary call, with retries, limits and a row in the ledger. Partial results are kept: an
error or an interrupt carries the DataFrame so far in `.partial`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from ..core import errors
from ..core.events import Response
from ..core.messages import Message
from ..core.options import CallSpec
from ..dialects.embeddings import EMBEDDINGS, Embeddings, unpack_matrix
from ..routing.registry import Route
from ..store.budgets import Budget
from .client import Client
from .stream import Stream

if TYPE_CHECKING:
    import pandas as pd

MAX_CONCURRENT = 4  # requests at a time
_BYTES_PER_TOKEN = 2  # the lower bound: prose has 4, digits and code 2 to 3
_PURPOSES = ("document", "query")
_OPTIONS = ("api_key", "timeout", "retries", "cache", "budget", "extra")


@dataclass(slots=True)
class _Row:
    """The outcome for a text. state: ok, empty, missing, too long, or not asked. tokens, cost: its share of
    its request's, by length."""

    vector: Any = None
    state: str = "not asked"
    tokens: int | None = None
    cost: float | None = None


@dataclass(slots=True)
class _Job:
    """The work of one `embed`. positions: the rows of each distinct text, which is sent once."""

    client: Client
    route: Route
    options: dict[str, Any]
    rows: list[_Row]
    positions: dict[str, list[int]]
    size: int | None = None
    requests: int = 0
    cached: int = 0
    model: str = ""
    simulated: bool = False
    running: deque[tuple[list[str], Stream]] = field(default_factory=deque)

    def run(self, batches: Iterable[list[str]]) -> None:
        """Sends all batches, a few at a time, and stores the answers in their order."""
        waiting = deque(batches)
        try:
            while waiting or self.running:
                while waiting and len(self.running) < MAX_CONCURRENT:
                    batch = waiting.popleft()
                    self.requests += 1
                    messages = [Message("user", text) for text in batch]
                    stream = self.client.stream_to(self.route, messages, CallSpec(**self.options))
                    self.running.append((batch, stream))
                waiting.extendleft(self._store_or_split(*self.running[0]))
                self.running.popleft()
        finally:
            self._stop_running()

    def _store_or_split(self, batch: list[str], stream: Stream) -> list[list[str]]:
        """Stores an answer. A batch with a text that is too long is returned in halves, until that text is
        alone."""
        try:
            self._store_vectors(batch, stream.response())
        except errors.ContextLengthExceeded:
            half = len(batch) // 2
            if half:
                return [batch[half:], batch[:half]]
            for position in self.positions[batch[0]]:
                self.rows[position].state = "too long"
        return []

    def _store_vectors(self, batch: list[str], response: Response) -> None:
        matrix = unpack_matrix(response.text)
        rows, size = matrix.shape
        requested = self.options["extra"].get("dimensions")
        wrong = f"other numbers of vectors ({rows}) and texts ({len(batch)})" if rows != len(batch) else ""
        if size != (expected := requested or self.size or size):
            wrong = wrong or f"vectors of {size} numbers instead of {expected}"
        if wrong:
            raise errors.ProtocolError(
                f"{self.route.provider.label or self.route.provider.name} sent {wrong}.",
                hint="Check the model, or use a smaller batch=; with cache=, send again: cache='refresh'.",
            )
        self.size, self.model, self.simulated = size, response.model or self.route.model, response.simulated
        self.cached += response.cached
        tokens = response.usage.input_tokens if response.usage else None
        for text, vector, share in zip(batch, matrix, _split_tokens(batch, tokens), strict=True):
            first, *others = self.positions[text]
            cost = None if response.cost is None else response.cost * len(text) / sum(map(len, batch))
            self.rows[first] = _Row(vector, "ok", share, cost)
            for position in others:  # it was sent, and paid for, once
                self.rows[position] = _Row(vector, "ok", tokens and 0, None if cost is None else 0.0)

    def _stop_running(self) -> None:
        """Cancels the running requests, and stores the answers that are complete."""
        for batch, stream in self.running:
            stream.cancel()
            with suppress(errors.NbllmError):  # the first error is the one that is raised
                if stream.done:
                    self._store_vectors(batch, stream.response())
        self.running.clear()


def embed(
    client: Client,
    texts: Any,
    model: str,
    *,
    dimensions: int | None = None,
    purpose: str = "document",
    batch: int | None = None,
    base_url: str | None = None,
    dialect: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """See api.embed."""
    values, index = _texts_and_index(texts)
    route, format = embedder(client, model, base_url, dialect, batch)
    unknown = next((name for name in options if name not in _OPTIONS), None)
    if unknown is not None:
        raise errors.ConfigError(
            f"embed has no option {unknown}.",
            hint=f"It takes dimensions, purpose, batch, {', '.join(_OPTIONS)}.",
        )
    options["extra"] = {**(options.get("extra") or {}), **vector_options(purpose, dimensions)}
    if options.get("budget") is not None:
        options["budget"] = Budget.of(options["budget"])  # one for all requests
    rows, positions = _group_texts(values)
    job = _Job(client, route, options, rows, positions, model=route.model)
    try:
        job.run(_batches(list(positions), format, batch or format.batch_size))
    except (errors.NbllmError, KeyboardInterrupt) as error:
        error.partial = _frame(job, index, model, purpose)  # type: ignore[union-attr]
        raise
    return _frame(job, index, model, purpose)


def vector_options(purpose: str = "document", dimensions: int | None = None) -> dict[str, Any]:
    """The options of vectors for a request's `extra`. Raises ConfigError for invalid ones."""
    if purpose not in _PURPOSES:
        raise errors.ConfigError(f"Not a purpose: {purpose!r}.", hint="Use document or query.")
    _check_whole_number("dimensions", dimensions, 2**20)
    return {"purpose": purpose} | ({} if dimensions is None else {"dimensions": dimensions})


def _check_whole_number(name: str, value: Any, most: int) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most
    ):
        raise errors.ConfigError(
            f"{name}={value!r} is not valid.", hint=f"Give a whole number from 1 to {most}."
        )


def _texts_and_index(texts: Any) -> tuple[list[Any], Any]:
    """(the texts, their pandas index; None for 0 to n-1)."""
    if isinstance(texts, str):
        return [texts], None
    if (
        getattr(texts, "ndim", 1) != 1
        or isinstance(texts, (bytes, dict, set))
        or not hasattr(texts, "__iter__")
    ):
        raise errors.ConfigError(
            f"embed takes texts, not a {type(texts).__name__}.",
            hint='Give a list of texts, or a column: df["text"].',
        )
    return list(texts), getattr(texts, "index", None) if hasattr(texts, "iloc") else None


def embedder(
    client: Client, model: str, base_url: str | None, dialect: str | None, batch: int | None = None
) -> tuple[Route, Embeddings]:
    """(the route, with the model's full name and the dialect of its embeddings; the format). Raises
    ConfigError where the provider has no embeddings, or does not take `batch` texts in one request."""
    if "|" in model or "(" in model:
        raise errors.ConfigError(
            f"embed takes one model, not {model!r}.",
            hint="Vectors of two models cannot be compared: name one.",
        )
    route = client.resolve(model, base_url, dialect)
    row = route.provider
    route.check()
    format = EMBEDDINGS.get(row.dialect)
    if format is None:
        raise errors.ConfigError(
            f"{row.label or row.name} has no embeddings.",
            hint="Choose a model for embeddings: openai/small, gemini/embedding, cohere/embed, "
            "ollama/nomic-embed-text.",
        )
    _check_whole_number("batch", batch, format.max_texts)
    is_default = route.model == row.default_model and not route.name.endswith(route.model)
    name = next(iter(row.embeddings.values()), route.model) if is_default else route.model
    name = row.embeddings.get(name, name)
    return replace(route, model=name, provider=replace(row, dialect=format.name)), format


def _group_texts(texts: Sequence[Any]) -> tuple[list[_Row], dict[str, list[int]]]:
    """(a row for each text, the positions of each distinct text to send). Raises ConfigError for what is not
    text."""
    rows, positions = [_Row() for _ in texts], dict[str, list[int]]()
    for position, text in enumerate(texts):
        if isinstance(text, str) and text.strip():
            positions.setdefault(str(text), []).append(position)  # numpy's texts too
        elif isinstance(text, str):
            rows[position].state = "empty"
        elif _is_missing(text):
            rows[position].state = "missing"
        else:
            raise errors.ConfigError(
                f"Row {position} is a {type(text).__name__}, not a text.",
                hint='Convert them to text first: df["column"].astype(str).',
            )
    return rows, positions


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, NaT or pandas' NA."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _batches(texts: Sequence[str], format: Embeddings, most: int) -> Iterator[list[str]]:
    """The texts, in their order, in batches within the provider's limits."""
    limit = None if format.max_tokens is None else format.max_tokens * _BYTES_PER_TOKEN
    batch, size = list[str](), 0
    for text in texts:
        n_bytes = len(text.encode("utf-8", "replace"))
        if batch and (len(batch) == most or (limit is not None and size + n_bytes > limit)):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += n_bytes
    if batch:
        yield batch


def _split_tokens(batch: Sequence[str], tokens: int | None) -> Sequence[int | None]:
    """Each text's share of the tokens, by length; the shares add up to all of them."""
    ends = list(accumulate(map(len, batch), initial=0))
    if tokens is None:
        return [None] * len(batch)
    return [b - a for a, b in pairwise(round(tokens * end / ends[-1]) for end in ends)]


def _frame(job: _Job, index: Any, model: str, purpose: str) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    none = np.full(job.size or 0, np.nan, np.float32)
    frame = pd.DataFrame(index=pd.RangeIndex(len(job.rows)) if index is None else index)
    vectors = np.empty(len(job.rows), object)
    for position, row in enumerate(job.rows):
        vectors[position] = none.copy() if row.vector is None else row.vector
    frame = frame.assign(
        embedding=vectors,
        status=pd.array([row.state for row in job.rows], dtype="str"),
        input_tokens=pd.array([row.tokens for row in job.rows], dtype="Int64"),
        cost=pd.array([row.cost for row in job.rows], dtype="Float64"),
    )
    known = [row for row in job.rows if row.state == "ok"]
    costs = [row.cost for row in known if row.cost is not None]
    counted = [row.tokens for row in known if row.tokens is not None]
    frame.attrs = {
        "asked": model,
        "model": job.model,
        "provider": job.route.provider.name,
        "purpose": purpose,
        "dimensions": job.size,
        "chosen": job.options["extra"].get("dimensions"),
        "requests": job.requests,
        "cached": job.cached,
        "simulated": job.simulated,
        "input_tokens": sum(counted) if known and len(counted) == len(known) else None,
        "cost": sum(costs) if known and len(costs) == len(known) else None,
    }
    return frame


def nearest(
    client: Client, question: Any, embedded: pd.DataFrame, k: int, model: str | None, **options: Any
) -> pd.DataFrame:
    """See api.nearest."""
    import numpy as np

    if "embedding" not in getattr(embedded, "columns", ()):
        raise errors.ConfigError(
            "There is no column embedding.", hint="Pass the DataFrame that nbllm.embed returned."
        )
    _check_whole_number("k", k, 2**31)
    attrs = embedded.attrs
    if isinstance(question, str):
        if not (model := model or attrs.get("asked")):
            raise errors.ConfigError(
                "The model that embedded these rows is not known.", hint="Name it: model='openai/small'."
            )
        dimensions = {"dimensions": attrs["chosen"]} if attrs.get("chosen") else {}
        query = embed(client, question, model, **{"purpose": "query", **dimensions, **options})
        question = query["embedding"].iloc[0]
    vector = np.asarray(question, np.float32)
    matrix = (
        np.stack(list(embedded["embedding"])) if len(embedded) else np.empty((0, len(vector)), np.float32)
    )
    if vector.ndim != 1 or matrix.shape[1] != len(vector):
        raise errors.ConfigError(
            f"The question has {vector.size} numbers, the rows have {matrix.shape[1]}.",
            hint="Embed both with one model and the same dimensions.",
        )
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
    with np.errstate(invalid="ignore", divide="ignore"):
        similarity = matrix @ vector / lengths
    order = np.argsort(-np.where(np.isfinite(similarity), similarity, -np.inf), kind="stable")
    order = order[np.isfinite(similarity[order])][:k]
    rows: pd.DataFrame = embedded.iloc[order].drop(columns="embedding")
    return rows.assign(similarity=similarity[order])

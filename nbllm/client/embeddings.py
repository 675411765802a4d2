"""Texts as vectors: which are asked, in how many requests, and what becomes of each.

Every request is a call like another, with retries, limits and a row in the ledger. What came is kept: an
error, and an interrupt, carry the DataFrame so far in `.partial`.
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

AT_ONCE = 4  # requests under way
_BYTES_PER_TOKEN = 2  # a batch is never too large for it: prose has 4, digits and code 2 to 3
_PURPOSES = ("document", "query")
_OPTIONS = ("api_key", "timeout", "retries", "cache", "budget", "extra")


@dataclass(slots=True)
class _Row:
    """What became of a text. state: ok, empty, missing, too long, or not asked; tokens and cost are its share
    of its request's, by length."""

    vector: Any = None
    state: str = "not asked"
    tokens: int | None = None
    cost: float | None = None


@dataclass(slots=True)
class _Job:
    """The work of one `embed`. places: where each distinct text stands; it is asked once."""

    client: Client
    route: Route
    options: dict[str, Any]
    rows: list[_Row]
    places: dict[str, list[int]]
    size: int | None = None
    requests: int = 0
    cached: int = 0
    model: str = ""
    simulated: bool = False
    under_way: deque[tuple[list[str], Stream]] = field(default_factory=deque)

    def run(self, batches: Iterable[list[str]]) -> None:
        """Asks for all batches, a few at once, and takes the answers in their order."""
        waiting = deque(batches)
        try:
            while waiting or self.under_way:
                while waiting and len(self.under_way) < AT_ONCE:
                    batch = waiting.popleft()
                    self.under_way.append((batch, self._ask(batch)))
                waiting.extendleft(self._take(*self.under_way[0]))
                self.under_way.popleft()
        finally:
            self._stop()

    def _ask(self, batch: list[str]) -> Stream:
        self.requests += 1
        return self.client.stream_to(
            self.route, [Message("user", t) for t in batch], CallSpec(**self.options)
        )

    def _take(self, batch: list[str], stream: Stream) -> list[list[str]]:
        """Keeps an answer. A batch with a text that is too long is halved until that text is alone."""
        try:
            self._keep(batch, stream.response())
        except errors.ContextLengthExceeded:
            half = len(batch) // 2
            if half:
                return [batch[half:], batch[:half]]
            for place in self.places[batch[0]]:
                self.rows[place].state = "too long"
        return []

    def _keep(self, batch: list[str], response: Response) -> None:
        matrix = unpack_matrix(response.text)
        rows, size = matrix.shape
        asked = self.options["extra"].get("dimensions")
        wrong = f"other numbers of vectors ({rows}) and texts ({len(batch)})" if rows != len(batch) else ""
        if size != (expected := asked or self.size or size):
            wrong = wrong or f"vectors of {size} numbers instead of {expected}"
        if wrong:
            raise errors.ProtocolError(
                f"{self.route.provider.label or self.route.provider.name} sent {wrong}.",
                hint="Check the model, or ask with a smaller batch=; with cache=, ask anew: cache='refresh'.",
            )
        self.size, self.model, self.simulated = size, response.model or self.route.model, response.simulated
        self.cached += response.cached
        tokens = response.usage.input_tokens if response.usage else None
        for text, vector, share in zip(batch, matrix, _shares(batch, tokens), strict=True):
            first, *others = self.places[text]
            cost = None if response.cost is None else response.cost * len(text) / sum(map(len, batch))
            self.rows[first] = _Row(vector, "ok", share, cost)
            for place in others:  # it was asked, and paid for, once
                self.rows[place] = _Row(vector, "ok", tokens and 0, None if cost is None else 0.0)

    def _stop(self) -> None:
        """Ends what is under way, and keeps what has come all the same."""
        for batch, stream in self.under_way:
            stream.cancel()
            with suppress(errors.NbllmError):  # the first error is the one that is told
                if stream.done:
                    self._keep(batch, stream.response())
        self.under_way.clear()


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
    given, index = _given(texts)
    route, format = embedder(client, model, base_url, dialect, batch)
    odd = next((name for name in options if name not in _OPTIONS), None)
    if odd is not None:
        raise errors.ConfigError(
            f"embed takes no {odd}.", hint=f"It takes dimensions, purpose, batch, {', '.join(_OPTIONS)}."
        )
    options["extra"] = {**(options.get("extra") or {}), **wanted(purpose, dimensions)}
    if options.get("budget") is not None:
        options["budget"] = Budget.of(options["budget"])  # one for all requests
    rows, places = _sorted(given)
    job = _Job(client, route, options, rows, places, model=route.model)
    try:
        job.run(_batches(list(places), format, batch or format.batch_size))
    except (errors.NbllmError, KeyboardInterrupt) as error:
        error.partial = _frame(job, index, model, purpose)  # type: ignore[union-attr]
        raise
    return _frame(job, index, model, purpose)


def wanted(purpose: str = "document", dimensions: int | None = None) -> dict[str, Any]:
    """What a request says of its vectors, in `extra`. Raises ConfigError."""
    if purpose not in _PURPOSES:
        raise errors.ConfigError(f"purpose={purpose!r} is none.", hint="Say document or query.")
    _whole_number("dimensions", dimensions, 2**20)
    return {"purpose": purpose} | ({} if dimensions is None else {"dimensions": dimensions})


def _whole_number(name: str, value: Any, most: int) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most
    ):
        raise errors.ConfigError(f"{name}={value!r} is none.", hint=f"Give a whole number from 1 to {most}.")


def _given(texts: Any) -> tuple[list[Any], Any]:
    """(the texts, their index; None for 0 to n-1)."""
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
    """The route with the model that a short name means there, and in the words of its embeddings. Raises
    ConfigError where it has none, or takes no `batch` texts in one request."""
    if "|" in model or "(" in model:
        raise errors.ConfigError(
            f"embed asks one model, not {model!r}.",
            hint="Vectors of two models cannot be compared: name one.",
        )
    route = client.resolve(model, base_url, dialect)
    row = route.provider
    route.check()
    format = EMBEDDINGS.get(row.dialect)
    if format is None:
        raise errors.ConfigError(
            f"{row.label or row.name} has no embeddings.",
            hint="Name a model that has: openai/small, gemini/embedding, cohere/embed, "
            "ollama/nomic-embed-text.",
        )
    _whole_number("batch", batch, format.max_texts)
    alone = route.model == row.default_model and not route.name.endswith(route.model)
    name = next(iter(row.embeddings.values()), route.model) if alone else route.model
    name = row.embeddings.get(name, name)
    return replace(route, model=name, provider=replace(row, dialect=format.name)), format


def _sorted(given: Sequence[Any]) -> tuple[list[_Row], dict[str, list[int]]]:
    """A row for each text, and where each distinct one stands that is to be asked. Raises ConfigError for
    what is no text."""
    rows, places = [_Row() for _ in given], dict[str, list[int]]()
    for place, text in enumerate(given):
        if isinstance(text, str) and text.strip():
            places.setdefault(str(text), []).append(place)  # numpy's texts too
        elif isinstance(text, str):
            rows[place].state = "empty"
        elif _is_missing(text):
            rows[place].state = "missing"
        else:
            raise errors.ConfigError(
                f"Row {place} is a {type(text).__name__}, not a text.",
                hint='Make texts of them first: df["column"].astype(str).',
            )
    return rows, places


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN, NaT or pandas' NA."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _batches(texts: Sequence[str], format: Embeddings, most: int) -> Iterator[list[str]]:
    """The texts in their order, in requests that the provider takes."""
    limit = None if format.max_tokens is None else format.max_tokens * _BYTES_PER_TOKEN
    batch, size = list[str](), 0
    for text in texts:
        own = len(text.encode("utf-8", "replace"))
        if batch and (len(batch) == most or (limit is not None and size + own > limit)):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += own
    if batch:
        yield batch


def _shares(batch: Sequence[str], tokens: int | None) -> Sequence[int | None]:
    """Each text's part of the tokens, by length; together they are all."""
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
    for place, row in enumerate(job.rows):
        vectors[place] = none.copy() if row.vector is None else row.vector
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
        raise errors.ConfigError("There is no column embedding.", hint="Give what nbllm.embed gave.")
    _whole_number("k", k, 2**31)
    about = embedded.attrs
    if isinstance(question, str):
        if not (model := model or about.get("asked")):
            raise errors.ConfigError(
                "Which model embedded these rows is not known.", hint="Say it: model='openai/small'."
            )
        asked = {"dimensions": about["chosen"]} if about.get("chosen") else {}
        query = embed(client, question, model, **{"purpose": "query", **asked, **options})
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
        likeness = matrix @ vector / lengths
    order = np.argsort(-np.where(np.isfinite(likeness), likeness, -np.inf), kind="stable")
    order = order[np.isfinite(likeness[order])][:k]
    found: pd.DataFrame = embedded.iloc[order].drop(columns="embedding")
    return found.assign(similarity=likeness[order])

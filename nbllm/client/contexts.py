"""The beginnings of prompts that Gemini keeps for cache=1h: each is sent once and then named, as long as this
client lives, at most an hour. Storage is billed, so the user is told of each, no short one is kept, and what
is left at the end is deleted.

What is not kept, or is gone before its time, costs no answer: the request is sent whole, with a notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from ..core import errors
from ..core.calls import HttpCall
from ..core.events import Notice, is_token
from ..dialects._contexts import HOUR, CacheablePrompt, cacheable_prompt, delete_call, min_tokens
from ..dialects._json import count, obj, string
from ..http.transport import HttpTransport
from .attempt import Attempt, Handler, Sink, fetch_json

_LIMIT = 60.0  # seconds for the server to keep one
_MARGIN = 60.0  # seconds before its end from which it is not named any more
_AT_END = 1.0  # seconds for deleting all of them
_MOST = 16  # that are kept at a time
_WORDS = 200  # characters of a refusal
_PAUSE = 300.0  # seconds for which a server that failed is not asked to keep anything


class _Context(msgspec.Struct, frozen=True):
    """What is kept: its name and the call that made it, how many pieces of the turns it holds, and until when
    (seconds of the loop's clock). mark: the hash of what it holds; attempt: for whom it was made."""

    name: str
    created: HttpCall
    pieces: int
    size: int
    until: float
    attempt: Attempt
    mark: str


class Contexts(msgspec.Struct):
    """Those of a client, on the engine's loop. making: those that are on their way, by whom they are for and
    what they hold; refused: what the server would not keep; paused: until when one that failed is left
    alone; least: the fewest tokens that it keeps."""

    http: HttpTransport
    kept: list[_Context] = msgspec.field(default_factory=list)
    _making: dict[tuple[object, str], asyncio.Task[_Context]] = msgspec.field(default_factory=dict)
    _refused: set[tuple[object, str]] = msgspec.field(default_factory=set)
    _paused: dict[object, float] = msgspec.field(default_factory=dict)
    _least: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)

    def naming(self, handler: Handler) -> Handler:
        """Sends the name of what is kept in place of it."""

        async def name(attempt: Attempt, sink: Sink) -> None:
            prompt = cacheable_prompt(attempt.call)
            found = None if prompt is None else await self._found(attempt, prompt, sink)
            if (
                prompt is None
                or found is None
                or not await self._answered(handler, attempt, prompt, found, sink)
            ):
                await handler(attempt, sink)

        def if_wanted(attempt: Attempt, sink: Sink) -> Coroutine[Any, Any, None]:
            wanted = attempt.request.cache == "1h" and attempt.dialect.keeps_prompts
            return (name if wanted else handler)(attempt, sink)

        return if_wanted

    async def _answered(
        self, handler: Handler, attempt: Attempt, prompt: CacheablePrompt, found: _Context, sink: Sink
    ) -> bool:
        """Whether the answer came by the name of what is kept; not where that is gone."""
        call, place = prompt.with_cache(found.name, found.pieces), len(sink.log)
        named = msgspec.structs.replace(
            attempt, call=call, ready=self.http.prepare_call(call, fresh=attempt.ready.fresh)
        )
        try:
            await handler(named, sink)
        except errors.ProviderError as error:
            shown = any(is_token(event) for _, event in sink.log[place:])
            if shown or not _is_about(error):
                raise
            self.kept = [c for c in self.kept if c is not found]
            sink.publish(
                _notice(f"What {attempt.provider_label} kept of the prompt is gone; it was sent whole")
            )
            return False
        return True

    async def _found(self, attempt: Attempt, prompt: CacheablePrompt, sink: Sink) -> _Context | None:
        """What is kept of a prompt; where that is little of it, more is kept now."""
        now, limit = asyncio.get_running_loop().time(), self._least_of(attempt)
        self.kept = [c for c in self.kept if c.until > now]
        best = max(
            (c for c in self.kept if _holds(c, attempt, prompt)),
            key=lambda context: context.size,
            default=None,
        )
        key = attempt.quota_key, prompt.hashes[prompt.question]
        waits = key in self._refused or self._paused.get(attempt.quota_key, now) > now
        if waits or prompt.size < max(limit, 2 * best.size if best else 0):
            return best
        if key not in self._making and len(self.kept) + len(self._making) >= _MOST:
            sink.publish(_notice(f"{_MOST} prompts are kept already; this one was sent whole"))
            return best
        return await self._made(attempt, prompt, sink, key) or best

    async def _made(
        self, attempt: Attempt, prompt: CacheablePrompt, sink: Sink, key: tuple[object, str]
    ) -> _Context | None:
        """What is kept of it now; None where that is refused. Equal prompts at once are one; it goes on where
        who asked first stops."""
        first = key not in self._making
        if first:
            task = self._making[key] = asyncio.create_task(self._make(attempt, prompt))
            task.add_done_callback(lambda _: self._making.pop(key, None))
        try:
            made = await asyncio.shield(self._making[key])
        except errors.NbllmError as error:
            said = error.scrub_secrets(attempt.guard.secrets).message
            self._least[attempt.route.provider.name, attempt.route.model] = min_tokens(
                attempt.route.model, said
            )
            if isinstance(error, errors.ProviderError) and error.status in (400, 403, 404):
                self._refused.add(key)
            else:
                self._paused[attempt.quota_key] = asyncio.get_running_loop().time() + _PAUSE
            sink.publish(
                _notice(
                    f"{attempt.provider_label} did not keep the prompt ({said[:_WORDS]}); it was sent whole"
                )
            )
            return None
        if first:
            sink.publish(
                Notice(
                    "context",
                    f"{attempt.provider_label} keeps {made.size:,} tokens of it for an hour, "
                    "and bills their storage, which is not in the cost.",
                    {"kept": made.size},
                )
            )
        return made

    async def _make(self, attempt: Attempt, prompt: CacheablePrompt) -> _Context:
        call, row = prompt.create_call(), attempt.route.provider
        _, told = await fetch_json(self.http, attempt.dialect, row, call, _LIMIT)
        name = string(obj(told).get("name"))
        if not name.startswith("cachedContents/"):
            raise errors.ProtocolError(
                f"{attempt.provider_label} names nothing that it keeps.", hint="Leave cache=1h out."
            )
        size = count(obj(obj(told).get("usageMetadata")).get("totalTokenCount")) or prompt.size
        until = asyncio.get_running_loop().time() + HOUR - _MARGIN
        mark = prompt.hashes[prompt.question]
        made = _Context(name, call, prompt.question, size, until, attempt, mark)
        self.kept.append(made)
        return made

    def _least_of(self, attempt: Attempt) -> int:
        model = attempt.route.model
        return self._least.get((attempt.route.provider.name, model)) or min_tokens(model)

    async def close(self) -> None:
        """Has the servers delete what they keep, as far as they answer soon."""
        kept, self.kept = self.kept, []

        async def forget(context: _Context) -> None:
            row, call = context.attempt.route.provider, delete_call(context.created, context.name)
            await fetch_json(self.http, context.attempt.dialect, row, call, _AT_END)

        await asyncio.gather(*map(forget, kept), return_exceptions=True)


def _holds(context: _Context, attempt: Attempt, prompt: CacheablePrompt) -> bool:
    """Whether it is the beginning of this prompt, kept for the same."""
    upto = context.pieces
    return context.attempt.quota_key == attempt.quota_key and prompt.hashes[upto : upto + 1] == [context.mark]


def _is_about(error: errors.ProviderError) -> bool:
    """Whether a refusal is about what is kept: it is gone, or another's."""
    return error.status in (403, 404) or (error.status == 400 and "cached" in error.message.lower())


def _notice(words: str) -> Notice:
    return Notice("context", f"{words}.")

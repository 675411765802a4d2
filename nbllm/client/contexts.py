"""Prompt prefixes that Gemini caches for cache=1h ("contexts"): each is sent once and then referred to by its
name, as long as this client lives, at most an hour. Storage is billed, so there is a notice for each, short
ones are not cached, and those that are left at the end are deleted.

Where caching is refused, or a context has expired early, the complete prompt is sent, with a notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec

from ..core import errors
from ..core.calls import HttpCall
from ..core.events import Notice, is_token
from ..dialects._contexts import HOUR, CacheablePrompt, cacheable_prompt, delete_call, min_tokens
from ..dialects._json import count, obj, string
from ..http.transport import HttpTransport
from .attempt import Attempt, Handler, Sink, fetch_json

_TIMEOUT = 60.0  # seconds to create one
_MARGIN = 60.0  # seconds before its expiry from which it is no longer used
_DELETE_TIMEOUT = 1.0  # seconds to delete all of them
_MAX_CONTEXTS = 16  # at a time
_MAX_REASON = 200  # characters of a server's reason in a notice
_PAUSE = 300.0  # seconds without caching after a server's failure


class _Context(msgspec.Struct, frozen=True):
    """A cached prefix: its name, the call that created it, the number of pieces of the prompt in it, its size
    in tokens, its expiry (seconds of the loop's clock) and a hash of its content. attempt: the one that it
    was created for."""

    name: str
    created: HttpCall
    pieces: int
    size: int
    expires_at: float
    attempt: Attempt
    hash: str


class Contexts(msgspec.Struct):
    """The contexts of a client, on the engine's loop. creating: tasks by quota key and content hash. refused:
    prompts that the server did not cache. paused: by quota key, the time until which nothing is cached.
    min_sizes: by provider and model, the fewest tokens that are cached."""

    http: HttpTransport
    active: list[_Context] = msgspec.field(default_factory=list)
    _creating: dict[tuple[object, str], asyncio.Task[_Context]] = msgspec.field(default_factory=dict)
    _refused: set[tuple[object, str]] = msgspec.field(default_factory=set)
    _paused: dict[object, float] = msgspec.field(default_factory=dict)
    _min_sizes: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)

    def use_contexts(self, handler: Handler) -> Handler:
        """Sends the name of a context instead of its content."""

        async def send_with_context(attempt: Attempt, sink: Sink) -> None:
            prompt = cacheable_prompt(attempt.call)
            context = None if prompt is None else await self._find_context(attempt, prompt, sink)
            if (
                prompt is None
                or context is None
                or not await self._send_with_context(handler, attempt, prompt, context, sink)
            ):
                await handler(attempt, sink)

        def if_wanted(attempt: Attempt, sink: Sink) -> Coroutine[Any, Any, None]:
            wanted = attempt.request.cache == "1h" and attempt.dialect.keeps_prompts
            return (send_with_context if wanted else handler)(attempt, sink)

        return if_wanted

    async def _send_with_context(
        self, handler: Handler, attempt: Attempt, prompt: CacheablePrompt, context: _Context, sink: Sink
    ) -> bool:
        """Sends an attempt with a context; False where that no longer exists."""
        call, start = prompt.with_cache(context.name, context.pieces), len(sink.log)
        prepared_call = self.http.prepare_call(call, fresh=attempt.prepared_call.fresh)
        try:
            await handler(msgspec.structs.replace(attempt, call=call, prepared_call=prepared_call), sink)
        except errors.ProviderError as error:
            shown = any(is_token(event) for _, event in sink.log[start:])
            if shown or not _is_about_context(error):
                raise
            self.active = [c for c in self.active if c is not context]
            sink.publish(
                _notice(f"The prompt cached by {attempt.provider_label} is gone; all of it was sent")
            )
            return False
        return True

    async def _find_context(self, attempt: Attempt, prompt: CacheablePrompt, sink: Sink) -> _Context | None:
        """The longest context for a prompt; a longer one is created where that covers little of it."""
        now, limit = asyncio.get_running_loop().time(), self._min_size(attempt)
        self.active = [c for c in self.active if c.expires_at > now]
        prefixes = (c for c in self.active if _is_prefix(c, attempt, prompt))
        best = max(prefixes, key=lambda context: context.size, default=None)
        key = attempt.quota_key, prompt.hashes[prompt.question]
        blocked = key in self._refused or self._paused.get(attempt.quota_key, now) > now
        if blocked or prompt.size < max(limit, 2 * best.size if best else 0):
            return best
        if key not in self._creating and len(self.active) + len(self._creating) >= _MAX_CONTEXTS:
            sink.publish(_notice(f"{_MAX_CONTEXTS} prompts are cached already; all of this one was sent"))
            return best
        return await self._create_once(attempt, prompt, sink, key) or best

    async def _create_once(
        self, attempt: Attempt, prompt: CacheablePrompt, sink: Sink, key: tuple[object, str]
    ) -> _Context | None:
        """Creates a context; None where the server refuses. Equal prompts at one time share a task, which
        continues where the first caller stops."""
        first = key not in self._creating
        if first:
            task = self._creating[key] = asyncio.create_task(self._create(attempt, prompt))
            task.add_done_callback(lambda _: self._creating.pop(key, None))
        try:
            context = await asyncio.shield(self._creating[key])
        except errors.NbllmError as error:
            reason = error.scrub_secrets(attempt.guard.secrets).message
            model = attempt.route.model
            self._min_sizes[attempt.route.provider.name, model] = min_tokens(model, reason)
            if isinstance(error, errors.ProviderError) and error.status in (400, 403, 404):
                self._refused.add(key)
            else:
                self._paused[attempt.quota_key] = asyncio.get_running_loop().time() + _PAUSE
            sink.publish(
                _notice(
                    f"{attempt.provider_label} did not cache the prompt ({reason[:_MAX_REASON]}); "
                    "all of it was sent"
                )
            )
            return None
        if first:
            sink.publish(
                _notice(
                    f"{attempt.provider_label} caches {context.size:,} tokens of the prompt for an hour, and "
                    "bills their storage, which is not in the cost",
                    {"kept": context.size},
                )
            )
        return context

    async def _create(self, attempt: Attempt, prompt: CacheablePrompt) -> _Context:
        call, row = prompt.create_call(), attempt.route.provider
        _, body = await fetch_json(self.http, attempt.dialect, row, call, _TIMEOUT)
        send_with_context = string(obj(body).get("name"))
        if not send_with_context.startswith("cachedContents/"):
            raise errors.ProtocolError(
                f"{attempt.provider_label} sent no name of the cached prompt.", hint="Leave cache=1h out."
            )
        size = count(obj(obj(body).get("usageMetadata")).get("totalTokenCount")) or prompt.size
        expires_at = asyncio.get_running_loop().time() + HOUR - _MARGIN
        hash = prompt.hashes[prompt.question]
        context = _Context(send_with_context, call, prompt.question, size, expires_at, attempt, hash)
        self.active.append(context)
        return context

    def _min_size(self, attempt: Attempt) -> int:
        model = attempt.route.model
        return self._min_sizes.get((attempt.route.provider.name, model)) or min_tokens(model)

    async def close(self) -> None:
        """Deletes the contexts on the servers, as far as these answer soon."""
        active, self.active = self.active, []

        async def delete(context: _Context) -> None:
            row, call = context.attempt.route.provider, delete_call(context.created, context.name)
            await fetch_json(self.http, context.attempt.dialect, row, call, _DELETE_TIMEOUT)

        await asyncio.gather(*map(delete, active), return_exceptions=True)


def _is_prefix(context: _Context, attempt: Attempt, prompt: CacheablePrompt) -> bool:
    """Whether a context is the beginning of this prompt, cached for the same provider, model and key."""
    upto = context.pieces
    return context.attempt.quota_key == attempt.quota_key and prompt.hashes[upto : upto + 1] == [context.hash]


def _is_about_context(error: errors.ProviderError) -> bool:
    """Whether an error is about the context: it is gone, or belongs to another key."""
    return error.status in (403, 404) or (error.status == 400 and "cached" in error.message.lower())


def _notice(text: str, data: Mapping[str, Any] | None = None) -> Notice:
    return Notice("context", f"{text}.", data or {})

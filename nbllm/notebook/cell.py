"""What a `%%llm` cell does: fill the prompt, ask, show, keep."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import MASK, ConfigError, NbllmError, after_answer, scrub
from ..events import Response, Restarted
from ..messages import Message, Part, Text
from ..streams import Stream
from ..structured import Shape
from ..wire import SECRET_HEADERS, ProcessCall, SessionCall, TalkCall, shown
from . import shorthand
from .attach import attached, part_of, told
from .bundle import footer, pretty
from .chats import Turn
from .fill import Filled, fill
from .grammar import Line
from .reusing import composed, define
from .run import Outcome, finish, follow, settle, stoppable
from .samples import BUDGET
from .session import Asked, Session
from .show import static

if TYPE_CHECKING:
    from .comparing import Comparison


class Stopped(KeyboardInterrupt):
    """The user pressed Stop: the cell fails in one line, so that Run All stops; the answer, `whole` or not, is kept in `name`."""

    def __init__(self, name: str, *, whole: bool = False) -> None:
        super().__init__(name)
        self.name, self.whole = name, whole

    def _render_traceback_(self) -> list[str]:
        return [f"Stopped. The {'' if self.whole else 'partial '}answer is in {self.name}."]


def run_cell(session: Session, line: Line, body: str) -> Response | Comparison | None:
    """Asks what the cell asks and gives the response; shows it while it comes."""
    if line.options.get("use"):
        body = composed(session, line.options["use"], body)
    if line.options.get("save"):
        session.fragments[str(line.options["save"])] = body
        session.say(f"{line.options['save']} is kept: %%llm use={line.options['save']} puts it before a prompt.")
        return None
    if line.options.get("def"):
        made = define(session, str(line.options["def"]), Line(line.models, with_schema(session, {**session.defaults, **line.options}), line.extra), body, _parts)
        session.say(f"{made.__name__}{inspect.signature(made)} is defined; it asks {', '.join(line.models) or session.defaults.get('model', 'auto')}.")
        return None
    filled = fill(body, session.fillable, session.evaluate, str(line.options.get("fill", session.defaults.get("fill", "on"))),
                  int(line.options.get("budget", session.defaults.get("budget", BUDGET))))
    if not filled.text.strip():
        raise ConfigError("The prompt is empty.", hint="Write what the model should answer below the %%llm line.")
    options = with_schema(session, {**session.defaults, **line.options})
    parts, attached = _parts(session, filled, options)
    asked = session.asked_from(Line(line.models, options, line.extra, line.out), parts, filled.told, attached)
    if asked.options.get("as") and asked.shape is None:
        raise ConfigError("as= needs a schema.", hint='For example schema="[name, population int]" as=df')
    if several(line.models, asked.options):
        from .comparing import compare

        if asked.options.get("bg"):
            raise ConfigError("bg=true asks one model.", hint="Leave it out: columns can be stopped one by one. Or ask in several cells.")
        session.warn_skipped(filled)
        return compare(session, asked, line.models or (asked.model,), line.out)
    name = asked.options.get("chat")
    if name is None:
        return _asked(session, asked, line.out, filled, lambda _r: None)
    chat, cell = session.chats.open(str(name)), session.cell or filled.text
    return _asked(session, replace(asked, history=chat.before(cell)), line.out, filled, lambda r: chat.keep(Turn(cell, Message("user", asked.parts), r)))


def _asked(session: Session, asked: Asked, out: str | None, filled: Filled, kept: Callable[[Response], None]) -> Response | None:
    """Asks now and here, or in the background."""
    if not asked.options.get("bg") or asked.options.get("dry_run"):
        return ask(session, asked, out, filled, kept)
    from .background import begin, wanted

    if not wanted(session, asked):
        return ask(session, asked, out, filled, kept)
    session.warn_skipped(filled)
    begin(session, asked, out, kept)
    return None


def several(models: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Whether more than one answer is wanted."""
    return len(models) > 1 or int(options.get("runs", 1)) > 1 or isinstance(options.get("temperature"), list)


def ask(session: Session, asked: Asked, out: str | None = None, filled: Filled | None = None,
        kept: Callable[[Response], None] = lambda response: None) -> Response | None:
    """Sends what was asked, shows the answer while it comes, keeps it in the notebook's variables and tells `kept`. A structured
    answer that does not fit is asked for once more.

    Raises the call's error after the partial answer was shown and kept, what went wrong after it, Stopped where the user
    stopped it.
    """
    if asked.options.get("dry_run"):
        _dry_run(session, asked)
        return None
    session.warn_skipped(filled)
    screen = session.view(asked)  # before the call: what this imports the first time must not count in its times
    stream = session.stream(asked)
    done: Outcome | None = None
    problems: list[NbllmError | None] = []
    with stoppable(stream) as interrupt:

        def watch(stream: Stream, why: str) -> bool:
            interrupt.streams.append(stream)
            if why:
                screen.feed(Restarted(why))
            try:
                follow(stream, screen)
            except KeyboardInterrupt:  # off the main thread, or pressed twice
                interrupt.stop()
                stream.wait_end(1)
            return not interrupt.asked

        try:
            done = settle(session, asked, stream, watch, lambda response, value: session.keep(asked, response, out, value))
            problems = [done.failure, _told(done, kept), finish(screen, asked, done, footer(done.response, filled=asked.filled, attached=asked.attached))]
        except KeyboardInterrupt:  # pressed twice after the answer: it is kept
            interrupt.stop()
            if done is None:
                done = Outcome(stream.partial())
                finish(screen, asked, done, footer(done.response))
    session.shown(done.response)
    if interrupt.asked:
        raise Stopped(out or "_llm", whole=done.response.finish_reason not in (None, "cancelled"))
    error = next(filter(None, problems), None)
    if error is not None:
        raise error
    if asked.options.get("format") == "code":
        from .mending import offer

        with after_answer(done.response, "offering it as a cell"):
            offer(session, done.response)
    return done.response


def _told(done: Outcome, kept: Callable[[Response], None]) -> NbllmError | None:
    """Tells `kept` of an answer that a conversation goes on from; gives what went wrong."""
    if done.counts and done.response.finish_reason != "cancelled":
        try:
            with after_answer(done.response, "keeping it in the conversation"):
                kept(done.response)
        except NbllmError as problem:
            return problem
    return None


def _parts(session: Session, filled: Filled, options: Mapping[str, Any]) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """(the parts of the prompt, what was attached, for the footer)."""
    parts: list[Part] = []
    for piece in filled.pieces:
        part = part_of(piece.source, piece.value) if not isinstance(piece, str) and piece.plain else None
        if part is not None and not isinstance(part, Text):
            parts.append(part)
        else:
            text = part.text if part is not None else piece if isinstance(piece, str) else piece.text
            parts.append(Text((parts.pop().text if parts and isinstance(parts[-1], Text) else "") + text))  # type: ignore[union-attr]
    if parts and isinstance(parts[-1], Text):
        parts[-1] = Text(parts[-1].text.rstrip("\n"))  # the line end that a cell always has is not the person's
    if parts and isinstance(parts[0], Text):
        parts[0] = Text(parts[0].text.lstrip("\n"))
    more = [(what, attached(what, session.namespace, filled.budget)) for what in options.get("attach", ())]
    return (*parts, *(part for _, part in more)), tuple(told(what, part, filled.budget) for what, part in more)


def with_schema(session: Session, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with schema= read: JSON, the name of a variable, or the short form."""
    text = options.get("schema")
    if text is None:
        return dict(options)
    if text.lstrip().startswith("{"):
        try:
            return {**options, "schema": Shape.of(json.loads(text))}
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"schema= is no JSON: {error}.", hint='The short form needs none: schema="name, age int".') from None
    if text.isidentifier() and text in session.namespace and not isinstance(session.namespace[text], str):
        return {**options, "schema": Shape.of(session.namespace[text])}
    return {**options, "schema": Shape.of(shorthand.schema(text))}


def _dry_run(session: Session, asked: Asked) -> None:
    """Shows what would be sent: address, headers with the key masked, body with long data shortened."""
    client, given = session.client, session.arguments(asked)
    api_key, base_url, dialect = (given.pop(n, None) for n in ("api_key", "base_url", "dialect"))
    keep = bool(given.pop("keep", False))
    for name in ("timeout", "retries"):
        given.pop(name, None)
    route = client.resolve(asked.model, base_url, dialect)
    request = client.request(session.messages(asked), route.model, **given)
    key = client.registry.key_for(route, api_key)
    call = client.encode(request, route, key or session.stand_in(route), keep=keep)
    where = route.provider.label or route.provider.name
    if isinstance(call, SessionCall):
        said = pretty({"addresses": [shown(a, call.guard.texts) for a in call.addresses], "session": call.session, "message": {**call.message, "parts": [{"type": "text", "text": call.turn.retold}]}})
        session.show(static(f"Nothing was sent. It would go to {where}:\n\n```json\n{said}\n```"))
        return
    call = call.process if isinstance(call, TalkCall) else call
    if isinstance(call, ProcessCall):
        ran = pretty({"command": list(call.argv), "variables": sorted(call.env), "standard input": call.stdin})
        session.show(static(f"Nothing was run. It would be {where}:\n\n```json\n{ran}\n```"))
        return
    headers = {k: MASK if k.lower() in SECRET_HEADERS or k in route.provider.headers else scrub(v, call.guard.texts) for k, v in call.headers.items()}
    text = pretty({"url": shown(call.url, call.guard.texts), "headers": headers, "body": _shortened(call.body)})
    where = f"{route.provider.label or route.provider.name}, key from {key.source}" if key else f"{route.provider.label or route.provider.name}, no key"
    session.show(static(f"Nothing was sent. It would go to {where}:\n\n```json\n{text}\n```"))


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 2_000:
        return f"{value[:200]}... ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {k: _shortened(v) for k, v in value.items()}
    return [_shortened(v) for v in value] if isinstance(value, (list, tuple)) else value


"""`%llm mcp`: the MCP servers of this notebook. What is shown of them is cleaned, and holds no value of a
variable and no key."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..client.remote_tool import RemoteTool
from ..core.errors import ConfigError, looks_like_key
from ..core.values import plural
from ..routing.config_files import user_file
from ..routing.oauth import RedirectListener, printable
from ..tools.consent import Change
from ..tools.mcp_config import save as write_own
from ..tools.mcp_entry import SESSION, Entry, Source, entry_of
from ..tools.mcp_mend import clean, line
from ..tools.mcp_offers import as_text
from ..tools.mcp_server import Server
from ..tools.mcp_servers import Servers
from . import jupyter_server
from .buttons import approve
from .fix import put_in_next_cell
from .overview import frame
from .session import Session
from .syntax import options
from .view.frontend import output_mode

_USAGE = (
    "%llm mcp add [--save] [--env NAME[=VALUE]] [--header NAME=VALUE] [--cwd FOLDER] NAME -- COMMAND ARGS "
    "(or NAME URL)"
)
_PROMPT = "%llm mcp prompt SERVER NAME key=value key='more words'"
_SHOWN = 20  # tools of a server that are told when it is allowed


def mcp(session: Session, rest: str) -> Any:
    """add, list, allow, tools, resources, prompt, remove, log, login, logout."""
    word, _, more = rest.strip().partition(" ")
    if word and word not in WORDS:
        raise ConfigError(f"%llm mcp has no {word!r}.", hint=f"There are {', '.join(WORDS)}.")
    return WORDS[word or "list"](session, more.strip())


def _add(session: Session, rest: str) -> str:
    """A server for this session; --save: in the user's own file."""
    flags, name, words = _line(rest)
    own_lab = name == "jupyter" and not words and not flags
    if not re.fullmatch(r"[\w.-]{1,64}", name) or not (words or own_lab):
        raise ConfigError(f"Not a server: {name!r}.", hint=_USAGE)
    table = jupyter_server.table(session) if own_lab else _table(flags, words)
    servers, here = session.client.mcp, Path.cwd()
    own = user_file().with_name("mcp.json")
    save = "--save" in flags
    source = Source(str(own.absolute()) if save else SESSION, here, trusted=True)
    entry = entry_of(name, table, source, session.client.registry.env)
    if entry.problem:
        raise ConfigError(f"mcp/{name}: {entry.problem}.", hint=_USAGE)
    if save:
        write_own(own, name, table)
        servers.remove(name)
    else:
        servers.add(entry)
    session.client.run(servers.stop(name))
    kept = f"as {own} says" if save else "in this session"
    starts = f"It starts at its first use: %%llm tools=mcp/{name}, or %llm mcp tools {name}."
    return f"mcp/{name} is {line(entry.runs)}, {kept}. {starts}"


def _line(rest: str) -> tuple[dict[str, list[str]], str, list[str]]:
    """(flags and their values, name, command or address) of `add`."""
    try:
        words = shlex.split(rest, posix=os.name != "nt")
    except ValueError as error:
        raise ConfigError(f"The line cannot be read: {error}.", hint=_USAGE) from None
    flags: dict[str, list[str]] = {}
    while words and words[0].startswith("--") and words[0] != "--":
        flag = words.pop(0)
        if flag not in ("--save", "--env", "--header", "--cwd"):
            raise ConfigError(f"%llm mcp add has no {flag}.", hint=_USAGE)
        flags.setdefault(flag, []).extend([words.pop(0)] if flag != "--save" and words else [])
    name, *command = words or [""]
    return flags, name, command[1:] if command[:1] == ["--"] else command


def _table(flags: Mapping[str, list[str]], words: list[str]) -> dict[str, Any]:
    """The entry as a file would hold it."""
    table: dict[str, Any] = (
        {"type": "http", "url": words[0]}
        if len(words) == 1 and re.match(r"https?://", words[0])
        else {"command": words[0], "args": words[1:]}
    )
    for flag, key in (("--env", "env"), ("--header", "headers")):
        if flag in flags:
            table[key] = dict(_pair(flag, given) for given in flags[flag])
    return table | ({"cwd": flags["--cwd"][-1]} if flags.get("--cwd") else {})


def _pair(flag: str, given: str) -> tuple[str, str]:
    """NAME=VALUE; NAME alone takes it from the environment. A key is never typed into a cell."""
    name, equals, value = given.partition("=")
    if looks_like_key(value) or any(looks_like_key(word) for word in value.split()):
        raise ConfigError(
            f"{flag} {name[:40]} holds a key, which would stay in the notebook.",
            hint=f"Put it into the environment, and write {flag} {name[:40]}='${{NAME}}' with its name.",
        )
    return name, value if equals else f"${{{name}}}"


def _list(session: Session, _rest: str) -> Any:
    servers = session.client.mcp
    entries, problems = servers.entries()
    for problem in problems:
        session.print_text(f"Ignored: {line(problem, 300)}")
    rows, seen = [], set[str]()
    for entry in entries:
        rows.append({"name": entry.name, "state": _state(servers, entry, seen), **_about(entry)})
        seen.add(entry.name)
    return frame(rows, ["name", "state", "runs", "variables", "file", "not used"])


def _state(servers: Servers, entry: Entry, seen: set[str]) -> str:
    if entry.name in seen:
        return "hidden by the one above"
    if entry.problem:
        return line(entry.problem, 200)
    if not servers.consent.allowed(entry):
        return f"not allowed yet: %llm mcp allow {entry.name}"
    server = servers.opened(entry.name)
    return server.state if server is not None and server.entry.same(entry) else "not started"


def _about(entry: Entry) -> dict[str, str]:
    return {
        "runs": line(entry.runs),
        "variables": ", ".join(line(n, 60) for n in entry.names),
        "file": line(entry.file, 300),
        "not used": ", ".join(line(n, 40) for n in entry.unused),
    }


def _allow(session: Session, rest: str) -> str:
    """Shows what a server would run, or what has changed in its tools, and asks."""
    servers, name = session.client.mcp, _one(rest)
    if name.startswith("remote/"):
        return _allow_card(session, session.client.remote(name))
    entry = servers.usable_entry(name)
    if not servers.consent.allowed(entry):
        session.print_text(_told(entry))
        if not approve(f"Start mcp/{entry.name}?", yes="Allow", no="No"):
            return f"mcp/{entry.name} stays as it is: not allowed."
        servers.consent.allow(entry)
    server = session.client.run(servers.server(entry.name))
    tools, changes = session.client.run(server.changes())
    others = session.client.run(server.other_changes())
    changes = [*changes, *(c for _, changed in others.values() for c in changed)]
    if not changes:
        names = ", ".join(line(t.name, 60) for t in tools[:_SHOWN])
        more = f" and {len(tools) - _SHOWN} more" if len(tools) > _SHOWN else ""
        return f"mcp/{entry.name} is allowed. Its {plural(len(tools), 'tool')}: {names}{more}."
    session.print_text("\n".join(map(_difference, changes)))
    what = "change" if others and any(changed for _, changed in others.values()) else "tool"
    question = f"Allow {plural(len(changes), what)} of mcp/{entry.name} as now?"
    if not approve(question, yes="Allow", no="No"):
        return f"mcp/{entry.name}: what has changed stays left out."
    servers.consent.pin(entry, tools)
    for kind, (offered, _) in others.items():
        servers.consent.pin(entry, offered, kind)
    words = "tools are allowed as they are" if len(tools) != 1 else "tool is allowed as it is"
    return f"mcp/{entry.name}: its {len(tools)} {words} now."


def _allow_card(session: Session, agent: RemoteTool) -> str:
    """Shows what has changed in an agent's card, and asks."""
    card, changes = session.client.run(agent.check_card())
    if not changes:
        return f"{agent.name} is allowed. It says of itself: {line(card.description, 300)}"
    session.print_text("\n".join(map(_difference, changes)))
    if not approve(f"Tell models this of {agent.name}?", yes="Allow", no="No"):
        return f"{agent.name} stays left out."
    agent.consent.pin(agent.entry, [card])
    return f"{agent.name} is allowed as its card is now."


def _told(entry: Entry) -> str:
    """All that consent is given to."""
    rows = {
        "file": line(entry.file, 500),
        "asks" if entry.url else "runs": line(entry.runs),
        "" if entry.url else "in": entry.cwd or "",
        "variables": ", ".join(line(n, 60) for n in entry.names) or "none",
    }
    return "\n".join([f"mcp/{entry.name}", *(f"  {k:10} {v}" for k, v in rows.items() if k)])


def _difference(change: Change) -> str:
    head = f"{line(change.tool, 60)} {'is new' if change.new else 'has changed'}:"
    return "\n".join([head, *(f"  {clean(text, 300)}" for text in change.lines)])


def _tools(session: Session, rest: str) -> Any:
    """The tools of a server, of some, or of all that are allowed, as a model would be told of them."""
    servers = session.client.mcp
    names = rest.split() or ["mcp/*"]
    usables, notes = session.client.run(
        servers.usables(n if n.startswith("mcp/") else f"mcp/{n}" for n in names)
    )
    for note in notes:
        session.print_text(note)
    rows = [
        {
            "tool": u.tool.name,
            "server": u.source,
            "description": u.tool.description,
            "arguments": ", ".join(u.tool.parameters.get("properties", {})),
        }
        for u in usables
    ]
    return frame(rows, ["tool", "server", "description", "arguments"])


def _resources(session: Session, rest: str) -> Any:
    """What a server offers to attach; of a pattern's address {places} are to be filled."""
    server = session.client.run(session.client.mcp.server(_one(rest)))
    offered = session.client.run(server.resources())
    for note in server.notes:
        session.print_text(note)
    rows = [
        {
            "attach": f"mcp://{server.entry.name}/{line(r.uri)}",
            "name": line(r.name, 200),
            "type": line(r.kind, 60),
            "bytes": r.size,
            "description": clean(r.description),
        }
        for r in offered
    ]
    return frame(rows, ["attach", "name", "type", "bytes", "description"]).astype({"bytes": "Int64"})


def _prompt(session: Session, rest: str) -> Any:
    """The prompts of a server; one that is named goes into the next cell, filled with key=value. It is not
    the user's own text: its braces fill nothing (fill=off)."""
    try:
        name, *words = shlex.split(rest) or [""]
    except ValueError as error:
        raise ConfigError(f"The line cannot be read: {error}.", hint=_PROMPT) from None
    server = session.client.run(session.client.mcp.server(_one(name)))
    if not words:
        return _prompts(session, server)
    odd = [w for w in words[1:] if not w.partition("=")[1]]
    if odd:
        raise ConfigError(f"Not an argument of a prompt: {odd[0]!r}.", hint=_PROMPT)
    arguments = {key: value for key, _, value in (w.partition("=") for w in words[1:])}
    text = as_text(session.client.run(server.prompt(words[0], arguments))).strip("\n")
    if output_mode(session.shell) != "live":
        return clean(text, len(text))
    warning = put_in_next_cell(session, f"%%llm fill=off\n{text}")
    return "\n".join(filter(None, ("The prompt is in the next cell; it has not been sent.", warning)))


def _prompts(session: Session, server: Server) -> Any:
    offered = session.client.run(server.prompts())
    rows = [
        (
            line(p.name, 200),
            ", ".join(f"{line(n, 60)}{'' if need else ' (optional)'}" for n, need in p.arguments.items()),
            clean(p.description),
        )
        for p in offered
    ]
    return frame(rows, ["prompt", "arguments", "description"])


def _remove(session: Session, rest: str) -> str:
    """Ends a server, forgets it where the user added it, and what was allowed of it."""
    servers, name = session.client.mcp, _one(rest)
    entry = servers.entry(name)
    session.client.run(servers.stop(entry.name))
    servers.consent.forget(entry)
    own = user_file().with_name("mcp.json")
    if entry.file == str(own.absolute()):
        write_own(own, entry.name, None)
    if servers.remove(entry.name) or entry.file == str(own.absolute()):
        return f"mcp/{entry.name} was removed."
    return (
        f"mcp/{entry.name} was ended and is not allowed any more; {line(entry.file, 300)} still describes it."
    )


def _login(session: Session, rest: str) -> str:
    """Logs in to a server in the browser."""
    servers = session.client.mcp
    entry = servers.usable_entry(_one(rest))
    if not session.can_prompt_user:
        raise ConfigError("Nobody can log in here.", hint="Log in from a notebook that somebody watches.")
    urls, answers = SimpleQueue[str](), SimpleQueue[Mapping[str, str]]()

    async def ask(url: str) -> Mapping[str, str]:
        urls.put(url)
        return await asyncio.to_thread(answers.get)

    with RedirectListener(port=entry.login.port) as listener, ThreadPoolExecutor(1) as thread:
        work = thread.submit(session.client.run, servers.log_in(entry, listener.address, ask))
        try:
            while not work.done():
                with suppress(Empty):
                    url = printable(urls.get(timeout=0.1))
                    listener.state = dict(parse_qsl(urlsplit(url).query)).get("state", "")
                    session.print_text(f"Open {_web(url)} in a browser on this machine. Waiting ...")
                    answers.put(listener.wait(600.0))
        finally:
            answers.put({})  # nobody waits any more
        kept = work.result()
    where = "." if kept else ", for this session: there is no keyring to keep it (pip install 'nbllm[keys]')."
    return f"mcp/{entry.name}: you are logged in{where}"


def _web(url: str) -> str:
    """The address of a login. Raises ConfigError for what a browser should not open."""
    parts = urlsplit(url)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not (parts.scheme == "https" or (parts.scheme == "http" and here)):
        raise ConfigError("The server names no address at which one could log in.", hint="Ask who runs it.")
    return url


def _logout(session: Session, rest: str) -> str:
    servers = session.client.mcp
    entry = servers.entry(_one(rest))
    login = servers.login(entry)
    there = login is not None and login.forget()
    session.client.run(servers.stop(entry.name))
    return f"mcp/{entry.name}: " + ("the login was deleted." if there else "nobody was logged in.")


def _log(session: Session, rest: str) -> str:
    """What a server wrote to its standard error, the last of it."""
    servers, name = session.client.mcp, _one(rest)
    server = servers.opened(servers.entry(name).name)
    text = clean(server.log[-10_000:], 10_000) if server is not None else ""
    return text or f"mcp/{servers.entry(name).name} has written nothing to its standard error."


def _one(rest: str) -> str:
    words = rest.split()
    if len(words) != 1:
        raise ConfigError("Which server?", hint="`%llm mcp list` lists them.")
    return words[0]


WORDS: dict[str, Callable[[Session, str], Any]] = dict(
    zip(
        options.SUBCOMMAND_WORDS["mcp"],
        (_add, _list, _allow, _tools, _resources, _prompt, _remove, _log, _login, _logout),
        strict=True,
    )
)

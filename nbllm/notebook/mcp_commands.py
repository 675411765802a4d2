"""`%llm mcp`: the MCP servers of this notebook. Output is cleaned of hidden characters, and contains no
values of variables and no keys."""

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
from ..tools.consent import DefinitionChange
from ..tools.mcp_config import save_entry as write_own
from ..tools.mcp_entry import SESSION, Entry, Source, parse_entry
from ..tools.mcp_mend import clean, line
from ..tools.mcp_offers import as_text
from ..tools.mcp_servers import Servers
from . import jupyter_server
from .buttons import approve
from .fix import put_in_next_cell
from .overview import to_frame
from .session import Session
from .syntax import options
from .view.frontend import output_mode

_ADD_USAGE = (
    "%llm mcp add [--save] [--env NAME[=VALUE]] [--header NAME=VALUE] [--cwd FOLDER] NAME -- COMMAND ARGS "
    "(or NAME URL)"
)
_PROMPT_USAGE = "%llm mcp prompt SERVER NAME key=value key='more words'"
_MAX_TOOLS = 20  # names of tools that are listed when a server is allowed


def mcp(session: Session, rest: str) -> Any:
    """The subcommands add, list, allow, tools, resources, prompt, remove, log, login, logout."""
    word, _, more = rest.strip().partition(" ")
    if word and word not in COMMANDS:
        raise ConfigError(f"%llm mcp has no {word!r}.", hint=f"There are {', '.join(COMMANDS)}.")
    return COMMANDS[word or "list"](session, more.strip())


def _add(session: Session, rest: str) -> str:
    """Adds a server to this session, with --save to the user's own file."""
    flags, name, words = _parse_add(rest)
    is_own_jupyter = name == "jupyter" and not words and not flags
    if not re.fullmatch(r"[\w.-]{1,64}", name) or not (words or is_own_jupyter):
        raise ConfigError(f"Not a server: {name!r}.", hint=_ADD_USAGE)
    table = jupyter_server.server_entry(session) if is_own_jupyter else _entry_table(flags, words)
    servers, here = session.client.mcp, Path.cwd()
    user_config = user_file().with_name("mcp.json")
    save = "--save" in flags
    source = Source(str(user_config.absolute()) if save else SESSION, here, trusted=True)
    entry = parse_entry(name, table, source, session.client.registry.env)
    if entry.problem:
        raise ConfigError(f"mcp/{name}: {entry.problem}.", hint=_ADD_USAGE)
    if save:
        write_own(user_config, name, table)
        servers.remove(name)
    else:
        servers.add(entry)
    session.client.run(servers.stop(name))
    scope = f"as {user_config} says" if save else "in this session"
    starts = f"It starts at its first use: %%llm tools=mcp/{name}, or %llm mcp tools {name}."
    return f"mcp/{name} is {line(entry.display_command)}, {scope}. {starts}"


def _parse_add(rest: str) -> tuple[dict[str, list[str]], str, list[str]]:
    """(flags and their values, name, command or URL) of `add`."""
    try:
        words = shlex.split(rest, posix=os.name != "nt")
    except ValueError as error:
        raise ConfigError(f"The line cannot be read: {error}.", hint=_ADD_USAGE) from None
    flags: dict[str, list[str]] = {}
    while words and words[0].startswith("--") and words[0] != "--":
        flag = words.pop(0)
        if flag not in ("--save", "--env", "--header", "--cwd"):
            raise ConfigError(f"%llm mcp add has no {flag}.", hint=_ADD_USAGE)
        flags.setdefault(flag, []).extend([words.pop(0)] if flag != "--save" and words else [])
    name, *command = words or [""]
    return flags, name, command[1:] if command[:1] == ["--"] else command


def _entry_table(flags: Mapping[str, list[str]], words: list[str]) -> dict[str, Any]:
    """The entry as a configuration file would have it."""
    table: dict[str, Any] = (
        {"type": "http", "url": words[0]}
        if len(words) == 1 and re.match(r"https?://", words[0])
        else {"command": words[0], "args": words[1:]}
    )
    for flag, key in (("--env", "env"), ("--header", "headers")):
        if flag in flags:
            table[key] = dict(_parse_pair(flag, given) for given in flags[flag])
    return table | ({"cwd": flags["--cwd"][-1]} if flags.get("--cwd") else {})


def _parse_pair(flag: str, text: str) -> tuple[str, str]:
    """NAME=VALUE; NAME alone takes the value from the environment. Keys are rejected."""
    name, equals, value = text.partition("=")
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
        rows.append(
            {"name": entry.name, "state": _entry_state(servers, entry, seen), **_entry_columns(entry)}
        )
        seen.add(entry.name)
    return to_frame(rows, ["name", "state", "runs", "variables", "file", "not used"])


def _entry_state(servers: Servers, entry: Entry, seen: set[str]) -> str:
    if entry.name in seen:
        return "hidden by the one above"
    if entry.problem:
        return line(entry.problem, 200)
    if not servers.consent.is_allowed(entry):
        return f"not allowed yet: %llm mcp allow {entry.name}"
    server = servers.get_open(entry.name)
    return server.state if server is not None and server.entry.runs_same(entry) else "not started"


def _entry_columns(entry: Entry) -> dict[str, str]:
    return {
        "runs": line(entry.display_command),
        "variables": ", ".join(line(n, 60) for n in entry.names),
        "file": line(entry.file, 300),
        "not used": ", ".join(line(n, 40) for n in entry.unused),
    }


def _allow(session: Session, rest: str) -> str:
    """Shows what a server would run, or what has changed in its tools, and asks the user to approve it."""
    servers, name = session.client.mcp, _server_name(rest)
    if name.startswith("remote/"):
        return _allow_card(session, session.client.remote(name))
    entry = servers.usable_entry(name)
    if not servers.consent.is_allowed(entry):
        session.print_text(_consent_text(entry))
        if not approve(f"Start mcp/{entry.name}?", yes="Allow", no="No"):
            return f"mcp/{entry.name} is still not allowed."
        servers.consent.allow(entry)
    server = session.client.run(servers.server(entry.name))
    tools, changes = session.client.run(server.check_tools())
    others = session.client.run(server.check_other_offers())
    changes = [*changes, *(c for _, changed in others.values() for c in changed)]
    if not changes:
        names = ", ".join(line(t.name, 60) for t in tools[:_MAX_TOOLS])
        more = f" and {len(tools) - _MAX_TOOLS} more" if len(tools) > _MAX_TOOLS else ""
        return f"mcp/{entry.name} is allowed. Its {plural(len(tools), 'tool')}: {names}{more}."
    session.print_text("\n".join(map(_change_text, changes)))
    noun = "change" if others and any(changed for _, changed in others.values()) else "tool"
    question = f"Allow {plural(len(changes), noun)} of mcp/{entry.name} as now?"
    if not approve(question, yes="Allow", no="No"):
        return f"mcp/{entry.name}: the changes are still not allowed."
    servers.consent.pin(entry, tools)
    for kind, (offered, _) in others.items():
        servers.consent.pin(entry, offered, kind)
    allowed = "tools are allowed as they are" if len(tools) != 1 else "tool is allowed as it is"
    return f"mcp/{entry.name}: its {len(tools)} {allowed} now."


def _allow_card(session: Session, agent: RemoteTool) -> str:
    """Shows what has changed in an agent's card, and asks the user to approve it."""
    card, changes = session.client.run(agent.check_card())
    if not changes:
        return f"{agent.name} is allowed. Its description: {line(card.description, 300)}"
    session.print_text("\n".join(map(_change_text, changes)))
    if not approve(f"Show this description of {agent.name} to models?", yes="Allow", no="No"):
        return f"{agent.name} is still not allowed."
    agent.consent.pin(agent.entry, [card])
    return f"{agent.name} is allowed as its card is now."


def _consent_text(entry: Entry) -> str:
    """Everything that the user approves."""
    rows = {
        "file": line(entry.file, 500),
        "asks" if entry.url else "runs": line(entry.display_command),
        "" if entry.url else "in": entry.cwd or "",
        "variables": ", ".join(line(n, 60) for n in entry.names) or "none",
    }
    return "\n".join([f"mcp/{entry.name}", *(f"  {k:10} {v}" for k, v in rows.items() if k)])


def _change_text(change: DefinitionChange) -> str:
    head = f"{line(change.tool, 60)} {'is new' if change.new else 'has changed'}:"
    return "\n".join([head, *(f"  {clean(text, 300)}" for text in change.lines)])


def _tools(session: Session, rest: str) -> Any:
    """The tools of a server, of several, or of all allowed servers, as a model would see them."""
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
    return to_frame(rows, ["tool", "server", "description", "arguments"])


def _resources(session: Session, rest: str) -> Any:
    """The resources of a server; {placeholders} in a pattern's address must be filled in."""
    server = session.client.run(session.client.mcp.server(_server_name(rest)))
    offered = session.client.run(server.resources())
    for note in server.notes:
        session.print_text(note)
    rows = [
        {
            "attach": f"mcp://{server.entry.name}/{line(r.uri)}",
            "name": line(r.name, 200),
            "type": line(r.media_type, 60),
            "bytes": r.size,
            "description": clean(r.description),
        }
        for r in offered
    ]
    return to_frame(rows, ["attach", "name", "type", "bytes", "description"]).astype({"bytes": "Int64"})


def _prompt(session: Session, rest: str) -> Any:
    """Lists the prompts of a server; a named one goes into the next cell, filled with key=value. It is not
    the user's own text, so its braces are not filled (fill=off)."""
    try:
        name, *words = shlex.split(rest) or [""]
    except ValueError as error:
        raise ConfigError(f"The line cannot be read: {error}.", hint=_PROMPT_USAGE) from None
    server = session.client.run(session.client.mcp.server(_server_name(name)))
    if not words:
        rows = [
            (
                line(p.name, 200),
                ", ".join(f"{line(n, 60)}{'' if need else ' (optional)'}" for n, need in p.arguments.items()),
                clean(p.description),
            )
            for p in session.client.run(server.prompts())
        ]
        return to_frame(rows, ["prompt", "arguments", "description"])
    invalid = [w for w in words[1:] if not w.partition("=")[1]]
    if invalid:
        raise ConfigError(f"Not an argument of a prompt: {invalid[0]!r}.", hint=_PROMPT_USAGE)
    arguments = {key: value for key, _, value in (w.partition("=") for w in words[1:])}
    text = as_text(session.client.run(server.prompt(words[0], arguments))).strip("\n")
    if output_mode(session.shell) != "live":
        return clean(text, len(text))
    warning = put_in_next_cell(session, f"%%llm fill=off\n{text}")
    return "\n".join(filter(None, ("The prompt is in the next cell; it has not been sent.", warning)))


def _remove(session: Session, rest: str) -> str:
    """Stops a server and deletes its approval; a server that the user added is deleted too."""
    servers, name = session.client.mcp, _server_name(rest)
    entry = servers.entry(name)
    session.client.run(servers.stop(entry.name))
    servers.consent.forget(entry)
    user_config = user_file().with_name("mcp.json")
    if entry.file == str(user_config.absolute()):
        write_own(user_config, entry.name, None)
    if servers.remove(entry.name) or entry.file == str(user_config.absolute()):
        return f"mcp/{entry.name} was removed."
    return (
        f"mcp/{entry.name} was stopped and is no longer allowed; {line(entry.file, 300)} still contains it."
    )


def _login(session: Session, rest: str) -> str:
    """Logs in to a server in the browser."""
    servers = session.client.mcp
    entry = servers.usable_entry(_server_name(rest))
    if not session.can_prompt_user:
        raise ConfigError("No user can log in here.", hint="Log in from an interactive notebook.")
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
                    session.print_text(
                        f"Open {_check_login_url(url)} in a browser on this machine. Waiting ..."
                    )
                    answers.put(listener.wait(600.0))
        finally:
            answers.put({})  # releases a waiting thread
        is_stored = work.result()
    where = (
        "."
        if is_stored
        else ", for this session: there is no keyring to keep it (pip install 'nbllm[keys]')."
    )
    return f"mcp/{entry.name}: you are logged in{where}"


def _check_login_url(url: str) -> str:
    """The URL of a login. Raises ConfigError for a URL that a browser should not open."""
    parts = urlsplit(url)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not (parts.scheme == "https" or (parts.scheme == "http" and here)):
        raise ConfigError("The server gives no valid login address.", hint="Ask its operator.")
    return url


def _logout(session: Session, rest: str) -> str:
    servers = session.client.mcp
    entry = servers.entry(_server_name(rest))
    login = servers.login(entry)
    was_logged_in = login is not None and login.forget()
    session.client.run(servers.stop(entry.name))
    return f"mcp/{entry.name}: " + ("the login was deleted." if was_logged_in else "you were not logged in.")


def _log(session: Session, rest: str) -> str:
    """The end of what a server wrote to its standard error."""
    servers, name = session.client.mcp, _server_name(rest)
    server = servers.get_open(servers.entry(name).name)
    text = clean(server.log[-10_000:], 10_000) if server is not None else ""
    return text or f"mcp/{servers.entry(name).name} has written nothing to its standard error."


def _server_name(rest: str) -> str:
    words = rest.split()
    if len(words) != 1:
        raise ConfigError("No server was named.", hint="`%llm mcp list` lists them.")
    return words[0]


COMMANDS: dict[str, Callable[[Session, str], Any]] = dict(
    zip(
        options.SUBCOMMAND_WORDS["mcp"],
        (_add, _list, _allow, _tools, _resources, _prompt, _remove, _log, _login, _logout),
        strict=True,
    )
)

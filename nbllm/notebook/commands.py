"""The subcommands of `%llm`: functions of the session and the rest of the line. A text that they return is
printed."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ..client.catalog import list_models, ping
from ..client.unloading import unload_models
from ..core.calls import ProviderSpec
from ..core.codec import to_json
from ..core.errors import ConfigError, processing_answer
from ..core.events import Response
from ..core.values import plural
from ..routing import keys
from ..routing.config import is_provider_name
from ..routing.config_files import user_file
from ..routing.toml_edit import set_entry
from ..store.recordings import SUFFIX, Recording, Tape, recording_path
from . import overview
from .cell import resolve_schema, run_cell, run_question, selected_models
from .chats import chat_markdown, chat_messages
from .comparison import Comparison
from .completion import allowed_values
from .question import Question, resolve_options
from .session import Session
from .syntax import parser as grammar
from .syntax.options import BENCH_OPTIONS, OPTIONS, SUBCOMMANDS
from .view.static import markdown_bundle

Command = Callable[[Session, str], Any]  # of the rest of the line


def _ask(session: Session, rest: str) -> Any:
    line, prompt = grammar.parse_ask(rest, session.client.registry.dialects)
    return run_cell(session, line, prompt)


def _use(session: Session, rest: str) -> str:
    if rest in ("reset", "off", "none", "clear"):
        session.defaults.clear()
        return "No defaults are set."
    if rest:
        line = session.parse(rest)
        if line.extra or line.out:
            raise ConfigError(
                "Only options can be defaults.", hint="For example: %llm use gemini/flash temperature=0"
            )
        if line.models:
            session.client.resolve(line.models[0])
            session.defaults["model"] = line.models[0]
        session.defaults.update(line.options)
    shown = "  ".join(f"{k}={v}" for k, v in session.defaults.items())
    return (
        f"Defaults of this notebook: {shown or 'none (model=auto)'}"
        + "  (%llm use none: drop them)" * bool(shown)
    )


def _models(session: Session, rest: str) -> Any:
    """Models with context size and prices: known names, a provider's own list, or `all` lists; `fresh`
    bypasses today's cached list."""
    words = [w for w in rest.split() if w != "fresh"]
    if not words and "fresh" not in rest:
        return overview.models_overview(session.client)
    if rest.partition("/")[0].strip() == "sim":
        return "The built-in simulator: sim, sim/openai, sim/responses, sim/claude, sim/gemini, sim/ollama."
    if len(words) > 1:
        raise ConfigError(f"%llm models takes one name, not {rest[:40]!r}.", hint="%llm models openai/")
    found = list_models(
        session.client, "".join(w for w in words if w != "all"), fresh="fresh" in rest.split()
    )
    return overview.models_to_frame([asdict(m) for m in found])


def _providers(session: Session, rest: str) -> Any:
    for problem in session.client.registry.problems:
        session.print_text(f"Ignored in the configuration: {problem}")
    names = [session.provider(w).name for w in rest.replace(",", " ").split() if w != "all"]
    return overview.providers_overview(session.client, names, all_columns=bool(rest))


def _ping(session: Session, rest: str) -> Any:
    return overview.pings_overview(
        [
            ping(session.client, name)
            for name in rest.replace(",", " ").split() or [str(session.defaults.get("model", "auto"))]
        ]
    )


def _unload(session: Session, rest: str) -> str:
    names: list[Any] = rest.replace(",", " ").split() or [None]
    gone = [told for name in names for told in unload_models(session.client, name)]
    return f"Unloaded: {', '.join(gone)}." if gone else "No model of a file is loaded."


def _key(session: Session, rest: str) -> Any:
    """Shows where a key was found, or asks the user for one."""
    word, _, name = rest.partition(" ")
    if word in _KEY_COMMANDS:
        return _KEY_COMMANDS[word](session, session.provider(name))
    if not rest.strip():
        return overview.providers_overview(session.client)
    if rest.partition("/")[0].strip() == "sim":
        return "The built-in simulator needs no key."
    row = session.provider(rest)
    found = session.client.registry.own_key(row)
    if found is not None:
        return f"{row.label or row.name}: key {found.masked} from {found.source}."
    address = session.client.registry.address(row)
    typed = session.prompt_for_key(
        f"Key for {row.label or row.name} at {keys.origin(address)} (kept for this session only): ", row
    )
    keys.set_session_key(row.name, typed, address)
    return (
        f"{row.label or row.name}: the key is kept for this session. `%llm key set {row.name}` would "
        f"keep it in the keyring."
    )


def _key_set(session: Session, row: ProviderSpec) -> str:
    registry, label = session.client.registry, row.label or row.name
    has_keyring = registry.stores.keyring() is not None
    typed = session.prompt_for_key(
        f"Key for {label} at {keys.origin(registry.address(row))} "
        f"({'kept in the keyring' if has_keyring else 'kept for this session only'}): ",
        row,
    )
    if keys.store_in_keyring(typed, registry.stores, registry.address(row)):
        keys.forget_session_key(row.name)
        return f"{label}: the key is kept in the keyring, for {keys.origin(registry.address(row))}."
    keys.set_session_key(row.name, typed, registry.address(row))
    return f"{label}: the key is kept for this session; `pip install keyring` would keep it for good."


def _key_unset(session: Session, row: ProviderSpec) -> str:
    registry, label = session.client.registry, row.label or row.name
    removed = [
        *(["of this session"] if keys.forget_session_key(row.name) else []),
        *(["in the keyring"] if keys.delete_from_keyring(registry.stores, registry.address(row)) else []),
    ]
    return f"{label}: " + (
        f"the key {' and that '.join(removed)} was removed."
        if removed
        else "no key was typed in this session, and none is in the keyring."
    )


def _key_where(session: Session, row: ProviderSpec) -> str:
    registry = session.client.registry
    used, address = registry.own_key(row), registry.address(row)
    first = (
        f"key {used.masked} from {used.source}"
        if used
        else f"no key; looked for {', '.join(row.key_env) or 'no variable'}"
    )
    return "\n".join(
        (
            f"{row.label or row.name}: {first}, for {keys.origin(address)}.",
            *(f"  {n}: {masked or 'none'}" for n, masked in keys.list_sources(row, registry.stores, address)),
        )
    )


def _key_allow(session: Session, row: ProviderSpec) -> str:
    """Approves, in the user's own file, the variables that a project's row uses."""
    registry = session.client.registry
    if not row.pending_consent:
        return f"{row.label or row.name} needs no approval."
    names = registry.allow(row)
    return (
        f"{row.label or row.name} may use {', '.join(names)} at {keys.origin(row.base_url)} from now "
        f"on; this is stored in {user_file()}."
    )


def _key_login(session: Session, row: ProviderSpec) -> str:
    from ..routing.oauth import login

    registry = session.client.registry
    if not session.can_prompt_user:
        raise ConfigError(
            "No user can log in here.",
            hint="Log in from an interactive notebook; the login is stored in the keyring.",
        )
    stored = login(row, keys.origin(registry.address(row)), registry.stores, session.print_text)
    return f"{row.label or row.name}: you are logged in" + (
        "." if stored else ", for this session: there is no keyring to keep it (pip install keyring)."
    )


def _key_logout(session: Session, row: ProviderSpec) -> str:
    from ..routing.oauth import logout

    registry = session.client.registry
    was_logged_in = logout(keys.origin(registry.address(row)), registry.stores)
    return f"{row.label or row.name}: " + (
        "the login was removed." if was_logged_in else "you were not logged in."
    )


_KEY_COMMANDS: dict[str, Callable[[Session, ProviderSpec], str]] = {
    "set": _key_set,
    "unset": _key_unset,
    "forget": _key_unset,
    "where": _key_where,
    "allow": _key_allow,
    "login": _key_login,
    "logout": _key_logout,
}


def _alias(session: Session, rest: str) -> Any:
    """Lists the aliases, or defines one: for this session, with --save permanently."""
    words = [w for w in rest.split() if w != "--save"]
    registry = session.client.registry
    if not words:
        return overview.to_frame(sorted(registry.aliases.items()), ["alias", "model"])
    if len(words) != 2:
        raise ConfigError("An alias is a name and a model.", hint="For example: %llm alias fast gemini/flash")
    name, model = words
    if is_provider_name(name, registry.rows):
        raise ConfigError(f"{name!r} is already a provider's name.", hint="Choose another alias.")
    route = registry.resolve(model)
    if "--save" in rest.split():
        set_entry(user_file(), "alias", name, model)
    registry.aliases[name] = model
    return f"{name} now means {route.provider.name}/{route.model}" + (
        f", as stored in {user_file()}." if "--save" in rest.split() else "."
    )


def _again(session: Session, rest: str) -> Response | Comparison | None:
    """Sends the last prompt again. The answer of another model is shown beside the existing ones."""
    if session.last_question is None:
        raise ConfigError("There is no question yet.", hint="Ask in a %%llm cell first.")
    line = session.parse(rest)
    again = session.last_question.with_changes(line.models, resolve_schema(session, line.options), line.extra)
    side_by_side = bool(line.models) or len(again.contestants) > 1
    return run_question(session, again, line.out, session.outcomes if side_by_side else ())


def _last(session: Session, _rest: str) -> Response:
    if session.last_response is None:
        raise ConfigError("There is no answer yet.", hint="Ask in a %%llm cell first.")
    session.drawn_values = (-1, [])  # so that it is displayed here too
    return session.last_response


_SWITCH_VALUES = {"on": True, "off": False}


def _parse_switch(rest: str, name: str) -> bool:
    if rest not in _SWITCH_VALUES:
        raise ConfigError(f"%llm {name} takes on or off, not {rest!r}.")
    return _SWITCH_VALUES[rest]


def _simulate(session: Session, rest: str) -> str:
    registry = session.client.registry
    if rest:
        registry.simulate = _parse_switch(rest, "simulate")
    if not registry.simulating:
        return "Simulation is off: models are asked at their own providers. %llm simulate on turns it on."
    return (
        "Simulation is on: every provider's name leads to the simulator on this machine, and its answers are "
        "marked as simulated. %llm simulate off turns it off."
    )


def _nest(session: Session, rest: str) -> str:
    """Applies nest_asyncio for the user's own nested loops; nbllm does not need it."""
    if not _parse_switch(rest or "on", "nest"):
        raise ConfigError("A patched event loop cannot be restored.", hint="Restart the kernel.")
    newer = importlib.util.find_spec("nest_asyncio2") is not None  # newer kernels come with it
    nest = import_module("nest_asyncio2" if newer else "nest_asyncio")
    nest.apply()
    return (
        f"{nest.__name__} is applied: your own asyncio.run and run_until_complete work in cells. The price: "
        "asyncio runs slower now"
        + ("" if newer else ", and on ipykernel 7.2 and later cells queued while a nested loop runs are lost")
        + ". nbllm itself never needs it. Restart the kernel to undo it."
    )


# The first screen of `%llm help`: commands by purpose.
_COMMAND_GROUPS = {
    "to begin": "models providers key ping use alias unload simulate help",
    "to ask": "ask again last stop fix insert kept",
    "to keep": "chat prompt record replay cache mcp batches",
    "to measure": "log cost budget bench",
}
_COMMON_OPTIONS = (
    "model system temperature max_tokens attach chat schema as tools format bg each runs cache budget dry_run"
)


def _help(session: Session, rest: str) -> str:
    """The help on one screen; `options` and `lines` list all of them; another word explains that topic."""
    topic = rest.lstrip("-%").replace("-", "_")
    if topic == "options":
        return "\n".join(
            _help_entry(
                f"{o.name}{f' -{o.short}' if o.short else ''}",
                o.help + (f" ({', '.join(o.values)})" if o.values else ""),
            )
            for o in OPTIONS.values()
        )
    if topic == "lines":
        return "\n".join(_help_entry(name, text) for name, text in SUBCOMMANDS.items())
    if topic:
        return _topic_help(session, topic)
    return (
        "%%llm [NAME <<] [MODEL] [option=value ...] [>> NAME]\n"
        "the prompt, with {name} and {{expression}} filled in\n\n"
        "x = %llm ask -m MODEL one line\n\n"
        "Options, as temperature=0, --dry-run or -t 0\n"
        f"{_help_entry('often', ', '.join(_COMMON_OPTIONS.split()))}\n"
        f"{_help_entry('x.NAME=value', 'goes to the provider as it is')}\n\nLines, as %llm models\n"
        + "\n".join(_help_entry(what, ", ".join(names.split())) for what, names in _COMMAND_GROUPS.items())
        + "\n\n%llm help NAME explains one of these, %llm help options and %llm help lines all."
    )


def _help_entry(name: str, text: str) -> str:
    """A name and its description, in lines of at most 100 characters broken between words."""
    return textwrap.fill(text, 100, initial_indent=f"  {name:16}", subsequent_indent=18 * " ")


def _topic_help(session: Session, topic: str) -> str:
    """The help on a name; an option and a command may share one."""
    found = [f"%llm {topic}: {SUBCOMMANDS[topic]}"] if topic in SUBCOMMANDS else []
    for options in (OPTIONS, BENCH_OPTIONS):
        if (o := options.get(topic)) and not (options is BENCH_OPTIONS and topic in OPTIONS):
            found.append(
                f"{o.name}={f' (-{o.short})' if o.short else ''}: {o.help}"
                + (f"\n  values: {', '.join(known)}" if (known := allowed_values(session, o)) else "")
            )
    if not found:
        raise ConfigError(f"No help on {topic[:40]!r}.", hint="`%llm help` lists the topics.")
    return "\n".join(found)


def _fix(session: Session, rest: str) -> Any:
    """Asks why the last cell failed; shows the answer and the change, and puts the corrected cell below,
    unrun."""
    from .fix import build_fix_prompt, propose_fix

    text, code = build_fix_prompt(session)
    line = session.parse(rest)
    options = resolve_schema(session, resolve_options(line, session.defaults))
    models = selected_models(line.models, options)
    session.require_model(models)
    answer = run_question(session, Question((text,), models, options, line.extra), line.out)
    if isinstance(answer, Response):
        with processing_answer(answer, "proposing it as a cell"):
            propose_fix(session, code, answer.text)
    return answer


def _chat(session: Session, rest: str) -> Any:
    """The subcommands list, open, show, pin, unpin, undo, fork, export, forget."""
    word, *names = rest.split() or ["list"]
    if word not in _CHAT_COMMANDS:
        raise ConfigError(
            f"%llm chat has no {word!r}.",
            hint="list, open NAME [MODEL], show NAME, pin NAME [N], unpin NAME [N], undo NAME, fork NAME "
            "OTHER, export NAME [FILE], forget NAME (--all: those of all notebooks), list --all.",
        )
    return _CHAT_COMMANDS[word](session, "".join(names[:1]), " ".join(names[1:]))


def _show_chat(session: Session, name: str, _rest: str) -> None:
    session.show_bundle(markdown_bundle(chat_markdown(session.chats.get(name))))


def _undo_turn(session: Session, name: str, _rest: str) -> str:
    undone = session.chats.undo(name).question.text[:60]
    return f"Undone: {undone!r}. {name} has {plural(len(session.chats.get(name).turns), 'turn')}."


def _pin_turn(session: Session, name: str, number: str, *, pinned: bool = True) -> str:
    turn = session.chats.pin(name, number.partition(" ")[0], pinned=pinned)
    return f"Turn {turn} of {name} is {'pinned' if pinned else 'no longer pinned'}."


def _fork_chat(session: Session, name: str, other: str) -> str:
    copy = session.chats.fork(name, other.partition(" ")[0])
    return f"{copy.name} continues from {name} with {plural(len(copy.turns), 'turn')}."


def _export_chat(session: Session, name: str, file: str) -> Any:
    messages = chat_messages(chat := session.chats.get(name))
    if not file:
        return messages
    path = Path(file)
    path.write_text(f"{to_json(messages) if path.suffix == '.json' else chat_markdown(chat)}\n", "utf-8")
    return f"{name} is in {path}."


def _list_chats(session: Session, name: str, _rest: str) -> Any:
    if name == "--all":  # the stored ones of all notebooks
        import pandas as pd

        from ..store.chats import ChatStore

        stored = [(k.chat, k.place, k.turns, k.bytes, k.at) for k in ChatStore().list_chats()]
        frame = overview.to_frame(stored, ["chat", "notebook", "turns", "bytes", "last"])
        return frame.assign(last=pd.to_datetime(frame["last"], unit="s", utc=True).dt.round("s"))
    rows = [
        {
            "chat": c.name,
            "turns": len(c.turns),
            "tokens": c.tokens,
            "cost_usd": c.cost,
            "model": c.turns[-1].response.model if c.turns else None,
        }
        for c in session.chats
    ]
    return overview.to_frame(rows, ["chat", "turns", "tokens", "cost_usd", "model"])


def _forget_chat(session: Session, name: str, _rest: str) -> str:
    """Deletes a conversation; --all: all conversations, of this notebook and others."""
    from ..store.chats import ChatStore

    if name != "--all":
        return f"Conversation {name} was deleted ({plural(session.chats.clear(name), 'turn')})."
    for chat in list(session.chats):
        session.chats.clear(chat.name)
    return f"All conversations were deleted (also {plural(ChatStore().delete(), 'turn')} of other notebooks)."


def _open_chat(session: Session, name: str, rest: str) -> Any:
    from .chat_widget import ChatWidget

    if not name.isidentifier():
        raise ConfigError("No conversation was named.", hint="%llm chat open NAME [MODEL] [key=value ...]")
    line = session.parse(rest)
    question = Question(
        (),
        selected_models(line.models, session.defaults),
        resolve_options(line, session.defaults),
        line.extra,
    )
    route, spec = session.prepare_call(question, question.contestants[0])
    return ChatWidget(route.name, name, **spec.selected())


_CHAT_COMMANDS: dict[str, Callable[[Session, str, str], Any]] = {
    "list": _list_chats,
    "open": _open_chat,
    "show": _show_chat,
    "pin": _pin_turn,
    "unpin": partial(_pin_turn, pinned=False),
    "undo": _undo_turn,
    "fork": _fork_chat,
    "clear": _forget_chat,
    "forget": _forget_chat,
    "export": _export_chat,
}


def _cache(session: Session, rest: str) -> str:
    """Shows the size of the answer cache; `clear` deletes it."""
    answers = session.client.answers
    if rest == "clear":
        return f"Deleted: {plural(answers.clear(), 'answer')}."
    if rest:
        raise ConfigError(f"%llm cache has no {rest[:40]!r}.", hint="%llm cache, or %llm cache clear.")
    figures = answers.statistics()
    return (
        f"{plural(figures['answers'], 'answer')} of {figures['bytes'] / 1e6:,.1f} MB "
        f"(at most {figures['limit'] / 1e6:,.0f} MB) in {figures['path']}; "
        f"in this session {figures['hits']} found, {figures['misses']} not. cache=true uses them."
    )


def _recording_path(session: Session, name: str, *, must_exist: bool = False) -> Path:
    """The recording file that a line names, with or without suffix; the notebook's own if it names none."""
    path = Path(name.strip(" \"'"))
    if path.name in ("", "on"):
        return recording_path(session.vscode_path, must_exist=must_exist)
    return path if path.suffix or path.is_file() else path.with_name(f"{path.name}{SUFFIX}")


def _record(session: Session, rest: str) -> str:
    tapes = session.client.tapes
    if rest in ("off", "stop", "end"):
        problem, tapes.target = tapes.target.problem if tapes.target else "", None
        return f"Calls are not recorded any more. {problem}".strip()
    tapes.target = Recording(_recording_path(session, rest))
    return f"Calls are recorded in {tapes.target.path} from now on; %llm record off stops it."


def _replay(session: Session, rest: str) -> str:
    tapes = session.client.tapes
    name, _, pace = rest.partition("pace=")
    if name.strip() in ("off", "stop", "end"):
        tapes.source = None
        return "Replay is off: calls are sent to providers again."
    path = _recording_path(session, name, must_exist=True)
    tapes.source = Tape(path, pace.strip() or "now")
    return (
        f"Calls are answered from {path} ({plural(tapes.source.calls, 'call')}): no key is needed, nothing "
        "is sent. %llm replay off ends it."
    )


def _lazy_command(target: str) -> Command:
    """The function `FILE:NAME` of this package; the file is imported on first use."""
    file, _, name = target.partition(":")

    def command(session: Session, rest: str) -> Any:
        return getattr(import_module(f".{file}", __package__), name)(session, rest)

    return command


COMMANDS: dict[str, Command] = {
    "ask": _ask,
    "use": _use,
    "models": _models,
    "providers": _providers,
    "ping": _ping,
    "unload": _unload,
    "key": _key,
    "alias": _alias,
    "again": _again,
    "last": _last,
    "simulate": _simulate,
    "nest": _nest,
    "help": _help,
    "bench": _lazy_command("bench_magics:bench"),
    "mcp": _lazy_command("mcp_commands:mcp"),
    "log": _lazy_command("calls:log"),
    "cost": _lazy_command("calls:cost"),
    "budget": _lazy_command("budget:budget_command"),
    "chat": _chat,
    "prompt": _lazy_command("prompt_files:command"),
    "kept": _lazy_command("actions:kept_command"),
    "fix": _fix,
    "insert": _lazy_command("fix:insert"),
    "undo": _lazy_command("tool_use:undo"),
    "stop": _lazy_command("background:stop"),
    "batches": _lazy_command("rows:batches"),
    "cache": _cache,
    "record": _record,
    "replay": _replay,
}

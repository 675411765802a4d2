"""Parsing of option values, and the names of subcommands. The table of options itself is in
core/options.py."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from unicodedata import normalize

from ...core import options
from ...core.errors import looks_like_key, similar_names
from ...core.options import Option

OPTIONS: dict[str, Option] = {o.name: o for o in options.OPTIONS if o.kind and o.scope != "bench"}
SHORT_OPTIONS: dict[str, Option] = {o.short: o for o in OPTIONS.values() if o.short}
# Options of a benchmark's line by all their names: bench.blocks and also blocks, where no call option has
# that name.
BENCH_OPTIONS: dict[str, Option] = {
    name: o
    for o in options.OPTIONS
    for name in (o.name, o.name.removeprefix("bench."))
    if o.scope == "bench" and name not in {c.name for c in options.OPTIONS if c.scope == "call"}
}

# Words that users type by mistake instead of a subcommand, and the subcommand that they mean.
SUBCOMMAND_SYNONYMS = {
    "list": "models",
    "list_models": "models",
    "available": "models",
    "reset": "use reset",
    "unuse": "use reset",
    "config": "use",
    "set": "use",
    "register": "alias",
    "history": "log",
    "calls": "log",
    "usage": "cost",
    "spend": "cost",
    "price": "cost",
    "run": "ask",
    "retry": "again",
    "redo": "again",
    "debug": "fix",
    "error": "fix",
    "login": "key login",
    "cancel": "stop",
    "interrupt": "stop",
    "benchmark": "bench",
    "sim": "simulate on",
    "offline": "replay",
}

SUBCOMMANDS: dict[str, str] = {
    "ask": "ask on one line: x = %llm ask -m gemini/flash why is the sky blue",
    "use": "set defaults for this notebook: %llm use gemini/flash temperature=0 (without arguments: show "
    "them; none: remove them)",
    "models": "list the models of a provider: %llm models gemini/ (fresh: not from today's cache)",
    "providers": "list providers, where their keys were found, whether they answer",
    "ping": "measure the time to first token: %llm ping gemini/flash claude/haiku",
    "unload": "remove models from this machine's memory: %llm unload (those loaded from files) | %llm unload "
    "local/NAME | ollama/NAME",
    "key": "show where a key is found, or enter one for this session: %llm key openai (set, unset, where "
    "NAME: the keyring; login, logout NAME: OAuth; allow NAME: approve a project's provider)",
    "alias": "define a short name for a model: %llm alias fast gemini/flash (--save: permanently)",
    "again": "send the last prompt again, to other models or with other options: %llm again claude/sonnet",
    "chat": "conversations: %llm chat list | open NAME [MODEL] (a panel) | show NAME | pin NAME [N] | "
    "unpin NAME [N] | undo NAME | fork NAME OTHER | export NAME [FILE] | forget NAME; keep_chats = true in "
    "your configuration keeps them on disk (list --all, forget --all: those of all notebooks)",
    "prompt": "prompts saved by save=, in this session or the project (save=prompts/NAME): %llm prompt list "
    "| show NAME | diff NAME (since the last commit) | edit NAME (in the next cell) | forget NAME",
    "kept": "list answers that were kept by the button below them, with their questions; add MODEL keeps "
    "that model's answer of the last comparison; forget ID",
    "fix": "explain why the last cell failed, and put the corrected cell below, unrun: %llm fix "
    "claude/sonnet",
    "undo": "revert the changes of tools in files and cells in the last answer: %llm undo (list: all "
    "changes; N: one of the list)",
    "insert": "put the code of the last answer into the next cell, unrun",
    "stop": "stop the answers in the background (bg=true)",
    "last": "show the last answer again",
    "bench": "measure models against each other: %llm bench openai/mini,claude/sonnet blocks=20 out=df "
    "(%%llm_bench takes prompts; options of the run may be written bench.NAME=, which is needed if a call "
    "has the same option: seed= is the call's, bench.seed= the run's)",
    "batches": "rows of tables in batches (each=df mode=batch wait=false): %llm batches (this machine's) | "
    "df = %llm batches NAME [TABLE] (the answers so far) | cancel NAME",
    "cache": "the answers stored by cache=true: number and size; clear deletes them",
    "record": "record calls and their answers in a file beside the notebook: record [FILE] | off",
    "replay": "answer calls from a recording, without keys or network: replay [FILE] [pace=recorded] | off",
    "mcp": "MCP servers, whose tools a model may use (tools=mcp/NAME): %llm mcp add NAME -- COMMAND ARGS | "
    "add NAME URL | list | allow NAME (a project's) | tools [NAME] | resources NAME (attach=mcp://NAME/...) "
    "| prompt NAME [PROMPT key=value ...] (into the next cell) | remove NAME | log NAME | login NAME | "
    "logout NAME",
    "log": "list the calls of this notebook; of all notebooks: today, yesterday, 7d, 12h, ever, "
    "since=2026-11-20 (n=20: the last ones; all: every column); -q WORDS: calls of all notebooks whose "
    'prompt or answer contains the words, if ledger = "texts" stores them',
    "cost": "the cost of the calls of this notebook by model: calls, tokens, dollars; of all notebooks, by "
    "day and model: today, yesterday, 7d, ever, since=2026-11-20; by=day, by=month, by=provider,model, "
    "by=kernel, by=label, by=notebook; plot draws it",
    "budget": "limit the spending of all calls of this notebook: %llm budget $5 tokens:100000 (without "
    "arguments: show spent, reserved, left; off: remove the limit and its record; name=NAME: share the "
    "limit with all notebooks that use the name)",
    "simulate": "on or off: send every provider's name to the built-in simulator",
    "nest": "on: let your own asyncio.run work in cells (nest_asyncio)",
    "help": "show this list, or one topic: %llm help temperature",
}
# Words that follow a subcommand, for completion.
SUBCOMMAND_WORDS: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "log": "today yesterday 7d ever since= n= all -q",
        "budget": "off name=",
        "cost": "today yesterday 7d ever since= by=",
        "models": "all fresh",
        "providers": "all",
        "key": "set unset where allow login logout",
        "chat": "list open show pin unpin undo fork export forget",
        "prompt": "list show diff edit forget",
        "mcp": "add list allow tools resources prompt remove log login logout",
        "simulate": "on off",
        "nest": "on",
        "cache": "clear",
        "record": "off",
        "replay": "off pace=",
        "kept": "add forget",
        "batches": "cancel",
        "help": "options lines",
    }.items()
}


# A text that consists of one placeholder; and the options that take a variable by its name.
PLACEHOLDER = re.compile(r"\{+\s*[^\W\d][^{}\s]*\s*\}+|\$\{?[^\W\d]\w*\}?")
_BY_NAME = frozenset(("model", "schema", "key", "attach", "tools", "approve", "each", "out"))


def placeholder_hint(option: str, name: str) -> str:
    """The hint how to set an option to a variable's value: placeholders in options are not filled."""
    known = OPTIONS.get(option)
    if option in _BY_NAME:
        return f"Write {option}={name}: the variable's name without braces."
    if known and known.default:
        return f"In a line before the cell: %config NbLLM.{option} = {name}. Prompts are filled."
    if known and known.scope == "cell":
        return f"Options are not filled: write what {option}= should be."
    return f"Call nbllm.complete(prompt, {option}={name}), or name it in the prompt, which is filled."


class InvalidValue(ValueError):
    """A text that is no valid value of its option; the message says what is expected."""


def parse_value(option: Option, text: str, dialects: Iterable[str] = ()) -> Any:
    """The value of `text` for `option`. dialects: the allowed values of dialect=; without them any name is
    accepted here and checked later. Raises InvalidValue."""
    if option.name == "dialect":
        option = replace(option, values=tuple(dialects) or (text,))
    return _READERS[option.kind](option, text)


def safe_repr(text: str) -> str:
    """`text` for an error message: on one line, shortened, and never a key."""
    return "this" if looks_like_key(text) else repr(text if len(text) <= 40 else text[:37] + "...")


def _number_reader(kind: Callable[[str], float], expected: str) -> Callable[[Option, str], Any]:
    def reader(option: Option, text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            raise InvalidValue(f"needs {expected}, not {safe_repr(text)}") from None
        if option.minimum is not None and number < option.minimum:
            least = "above 0" if option is _BUDGET_AMOUNT else f"at least {option.minimum:g}"
            raise InvalidValue(f"is {least}, not {safe_repr(text)}")
        return number

    return reader


def _read_floats(option: Option, text: str) -> float | list[float]:
    numbers = [_READERS["float"](option, part) for part in text.strip("[]").split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


_BOOLEANS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def _read_bool(_option: Option, text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise InvalidValue(f"needs true or false, not {safe_repr(text)}")
    return _BOOLEANS[text.lower()]


def _read_choice(option: Option, text: str) -> str:
    if text not in option.values:
        near = similar_names(text.lower(), option.values)
        raise InvalidValue(
            f"needs one of {', '.join(option.values)}, not {safe_repr(text)}"
            + (f": did you mean {near[0]}?" if near else "")
        )
    return text


def _read_choice_or_function(option: Option, text: str) -> str:
    """One of the option's words, or the name of a function of the notebook."""
    return text if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", text) else _read_choice(option, text)


_IPYTHON_NAMES = frozenset(
    ("In", "Out", "get_ipython", "exit", "quit", "open", "_", "__", "___", "_ih", "_oh", "_dh")
)


def _read_name(_option: Option, text: str) -> str:
    text = normalize("NFKC", text)  # as Python reads names
    if not text.isidentifier() or keyword.iskeyword(text):
        raise InvalidValue(f"needs a variable's name, not {safe_repr(text)}")
    if text in _IPYTHON_NAMES:
        raise InvalidValue(f"is {text}, which IPython uses itself: choose another name")
    return text


def _read_prompt_name(option: Option, text: str) -> str:
    """A name, or the path of a file in the project's prompts folder."""
    folder, _, name = text.rpartition("/")
    if folder not in ("", "prompts") or not re.fullmatch(r"[^\W\d][\w\-]{0,79}", name):
        raise InvalidValue(f"needs a name, or prompts/NAME to save it in the project, not {safe_repr(text)}")
    return text


def _read_word(_option: Option, text: str) -> str:
    if not 0 < len(text) <= 80 or not text.isprintable() or looks_like_key(text, known_prefix=True):
        raise InvalidValue(f"needs a word of at most 80 characters, not {safe_repr(text)}")
    return text


def _read_variable(_option: Option, text: str) -> str:
    # A key typed here by mistake must not be echoed, so the text stays out of the message, whatever it is.
    if not re.fullmatch(r"[A-Za-z_]\w{0,63}", text) or looks_like_key(text):
        raise InvalidValue("needs the NAME of a variable that holds the key, never the key itself")
    return text


def _read_effort(option: Option, text: str) -> str | int:
    if text.isdecimal() and len(text) <= 9:
        return int(text)
    if text not in option.values:
        raise InvalidValue(
            f"needs one of {', '.join(option.values)}, or a number of tokens, not {safe_repr(text)}"
        )
    return text


_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def _read_duration(_option: Option, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|)", text)
    if not match or float(match[1]) <= 0:
        raise InvalidValue(f"needs a time such as 30, 30s, 2m or 500ms, not {safe_repr(text)}")
    return float(match[1]) * _UNITS[match[2]]


def _read_list(_option: Option, text: str) -> list[str]:
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise InvalidValue(f"needs text or a JSON list of texts, not {safe_repr(text)}")
    return values


def _read_models(_option: Option, text: str) -> list[str]:
    names = [n.strip() for n in re.split(r",(?![a-z_]+=)", text)]  # sim/openai@ttft=1,gap=0 is one name
    if re.match(r"(?:[sr]k|gsk|hf)[-_][\w\-]{16,}|AIza[\w\-]{16,}", text):
        raise InvalidValue(
            "needs a model's name, not a key: key= takes the NAME of the variable that holds it"
        )
    if not all(n and n.count("(") == n.count(")") for n in names):
        raise InvalidValue(
            f"needs names joined by commas without spaces, or as cheap(a|b), not {safe_repr(text)}"
        )
    return names


def _finite_float(text: str) -> float:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - nan
        raise ValueError(text)
    return value


def _read_names(_option: Option, text: str) -> list[str]:
    names = [n.strip() for n in text.split(",")]
    if not all(names):
        raise InvalidValue(f"needs names joined by commas, not {safe_repr(text)}")
    return names


_BUDGET_AMOUNT = Option("budget", minimum=1e-9)


def _read_budget(option: Option, text: str) -> int | dict[str, float]:
    """A number of tokens for values in the prompt, or limits on spending."""
    if "$" in (text[:1], text[-1:]):
        text = f"usd:{text.strip('$')}"
    if ":" not in text:
        tokens: int = _number_reader(int, "a whole number of tokens, or dollars as $0.5")(option, text)
        return tokens
    limits: dict[str, float] = {}
    for pair in text.split(","):
        name, _, number = pair.partition(":")
        if name not in ("usd", "tokens"):
            raise InvalidValue(f"takes usd and tokens, as in usd:0.5,tokens:20000, not {safe_repr(name)}")
        limits[name] = _number_reader(_finite_float, "a number")(_BUDGET_AMOUNT, number)
    return limits


def _read_dollars(option: Option, text: str) -> Any:
    """Limits on spending, where a plain number means dollars."""
    return _read_budget(option, text if ":" in text or text.startswith("$") else f"usd:{text}")


_COMPACT = "auto, off, a share such as 0.8, or tokens"
_READERS: dict[str, Callable[[Option, str], Any]] = {
    "str": lambda _o, text: text,
    "int": _number_reader(int, "a whole number"),
    "float": _number_reader(_finite_float, "a number"),
    "floats": _read_floats,
    "bool": _read_bool,
    "choice": _read_choice,
    "choice or function": _read_choice_or_function,
    "name": _read_name,
    "kept": _read_prompt_name,
    "word": _read_word,
    "variable": _read_variable,
    "effort": _read_effort,
    "duration": _read_duration,
    "list": _read_list,
    "models": _read_models,
    "names": _read_names,
    "budget": _read_budget,
    "dollars": _read_dollars,
    "compact": lambda o, text: (
        text if text in ("auto", "off") else _number_reader(_finite_float, _COMPACT)(o, text)
    ),
}

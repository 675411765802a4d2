"""All options, defined once: those of a call are the fields of `CallSpec`; those of a cell and of a benchmark
are in the tables below. Parsing, completion, help, defaults, requests, records and benchmarks are derived
from them."""

# ruff: noqa: RUF009 - the helpers below create fields

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Self

from .errors import ConfigError, did_you_mean
from .messages import Effort, Text

# Other names that users may write: nbllm's option, then the names that other tools use for it.
ALIASES = {
    word: name
    for name, words in {
        "render=final": "stream",
        "key": "api_key apikey api_key_env",
        "base_url": "url api_base openai_api_base endpoint api_url server host",
        "out": "output variable assign store_as",
        "reasoning": "thinking effort reasoning_effort thinking_budget",
        "max_tokens": "max_output_tokens max_completion_tokens max_new_tokens num_predict max_length",
        "attach": "file files image images attachment attachments document",
        "model": "provider model_name engine deployment",
        "runs": "n num_return_sequences samples repeat repeats times",
        "schema": "response_format response_model output_schema json_schema output_type",
        "system": "system_prompt instructions preamble",
        "each": "rows df dataframe over table",
        "chat": "conversation history session memory thread",
        "retries": "max_retries num_retries retry",
        "timeout": "request_timeout",
        "width": "concurrency workers max_workers max_concurrency parallel batch_size",
        "tools": "functions",
        "bg": "background asynchronous",
        "cache": "caching",
    }.items()
    for word in words.split()
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option. name: in a cell's first line; keyword: in Python; kind: how its text is parsed ("" if it
    cannot be given in a line).

    scope: call, cell (notebook only) or bench (of a complete run). part: what an option of a call affects: a
    parameter of the request, the request, the address, or the sending. values: the allowed values; minimum:
    the smallest number; repeatable: it can be given several times; default: a notebook can set a default for
    it; project: a project's file can set that default.
    """

    name: str
    kind: str = ""
    help: str = ""
    keyword: str = ""
    short: str = ""
    scope: str = "cell"
    part: str = ""
    values: tuple[str, ...] = ()
    minimum: float | None = None
    repeatable: bool = False
    default: bool = True
    project: bool = True


def _metadata(kind: str, help: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "help": help, **more}


def _call(part: str, kind: str, help: str, **more: Any) -> Any:
    return field(default=None, metadata=_metadata(kind, help, **{"scope": "call", "part": part, **more}))


LEDGERS = ("disk", "memory", "texts")  # where calls are recorded; texts: on disk, with prompts and answers
_EFFORTS = ("none", "minimal", "low", "medium", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpec:
    """The options of a call; None where nothing was chosen."""

    model: str | None = _call(
        "",
        "models",
        "which model answers: gemini/pro, auto ...; several, separated by commas, answer side by side; a|b "
        "uses b if a fails; cheap(a|b) and fast(a|b) start with the cheapest or the fastest",
        short="m",
    )
    system: str | None = _call("request", "str", "instructions for the model, such as its role", short="s")
    temperature: float | None = _call(
        "parameter",
        "floats",
        "0 for the most likely words, higher for more varied ones; several are compared: 0,0.7",
        short="t",
        minimum=0,
    )
    max_tokens: int | None = _call("parameter", "int", "maximum length of the answer, in tokens", minimum=1)
    top_p: float | None = _call(
        "parameter", "float", "share of the most likely tokens to choose from", minimum=0
    )
    stop: str | Iterable[str] | None = _call(
        "parameter", "list", "text at which the answer ends; can be repeated", repeatable=True
    )
    seed: int | None = _call("parameter", "int", "same seed, same answer, if the provider supports it")
    reasoning: Effort | int | None = _call(
        "parameter", "effort", "how much to reason: a level, or a budget in tokens", values=_EFFORTS
    )
    schema: Any = _call(
        "request",
        "str",
        'structure of the answer: "name, age int", a JSON schema, or a variable\'s name',
        default=False,
    )
    timeout: Any = _call("sending", "duration", "time limit for the complete call: 30, 30s, 2m")
    retries: Any = _call("sending", "int", "how often to retry before anything was shown (2)", minimum=0)
    keep: bool | None = _call(
        "sending",
        "bool",
        "a headless CLI keeps running for the next cell, which is then faster: model=cli/claude keep=true",
        project=False,
    )
    base_url: str | None = _call("address", "str", "send the call to another address", project=False)
    dialect: str | None = _call("address", "choice", "the wire format of base_url", project=False)
    api_key: Any = _call(
        "address",
        "variable",
        "NAME of the variable that holds the key",
        name="key",
        default=False,
        project=False,
    )
    compact: Any = _call(
        "use",
        "compact",
        "when a conversation (chat=, tools=) is shortened: auto, off, a share of the context window (0.8), "
        "or tokens",
    )
    budget: Any = _call(  # a benchmark's line has a budget of its own
        "use",
        "budget",
        "tokens that a variable in the prompt may take (1000): tables are sampled to fit; or what all "
        "answers of the cell may cost together: $0.5, or usd:0.5,tokens:20000; with each=, a plain number is "
        "dollars, for all rows",
        scope="cell",
        minimum=20,
    )
    mode: str | None = _call(
        "sending",
        "choice",
        "with each=: batch submits all rows at once, to be answered within a day at half the price; with "
        "cli/...: execute lets the agent use its tools, and asks you before changes (query: no tools)",
        values=("now", "batch", "query", "execute"),
        default=False,
        project=False,
    )
    tools: Any = _call(
        "request",
        "names",
        "what the model may use, separated by commas: functions of this notebook and methods of its objects",
        default=False,
    )
    strict: bool | None = _call(
        "use",
        "bool",
        "the provider enforces the schemas of tool calls, and of an answer with schema=: they are rewritten "
        "for it, or an error says why that is not possible",
        default=False,
    )
    max_steps: int | None = _call(
        "use", "int", "maximum number of turns with tools (10); the last one is the answer", minimum=1
    )
    approve: Any = _call(
        "use",
        "choice or function",
        "before a tool runs: ask asks you; auto runs all; never only those that just read; or a function of "
        "the notebook decides, which gets the question",
        values=("ask", "auto", "never"),
        project=False,
    )
    cache: str | None = _call(
        "parameter",
        "choice",
        "whether the provider caches the prompt for the next one with the same beginning: auto (with chat= "
        "or tools=), off, 1h for longer; true reuses the stored answer of an equal call, refresh replaces it",
        values=("auto", "off", "1h", "true", "refresh"),
    )
    failover: str | None = _call(
        "sending",
        "choice",
        "with model=a|b: start uses b only before a has begun to answer; restart also later, discarding a's "
        "answer; content also where a's filter refused",
        values=("start", "restart", "content"),
        default=False,
    )
    hedge: float | None = _call(
        "sending",
        "duration",
        "sends a second request after this time without a token; the first answer to begin is used: hedge=2s",
        default=False,
    )
    label: str | None = _call(
        "sending",
        "word",
        "a label of the call in the log: %llm cost by=label; with use= it is the prompt's name and version",
    )
    sample: int | None = _call("sending", "", "which of several answers to the same prompt", default=False)
    tool_choice: str | None = _call(
        "parameter",
        "word",
        "whether a model must call a tool in its first turn: auto, none, required, or the name of one",
        default=False,
    )
    extra: Mapping[str, Any] | None = _call("request", "", "", default=False)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The options of a call from keyword arguments. Raises ConfigError for an unknown name."""
        if unknown := next((name for name in given if name not in CALL_OPTIONS), None):
            raise ConfigError(
                f"A call has no option {unknown!r}.",
                hint="nbllm.stream(...) streams an answer."
                if unknown == "stream"
                else did_you_mean(
                    known if (known := ALIASES.get(unknown)) in CALL_OPTIONS else unknown, CALL_OPTIONS
                ),
            )
        for name, (types, expected) in _ACCEPTED_TYPES.items():
            value = given.get(name)
            is_object = name in _OBJECTS and hasattr(value, "__dataclass_fields__")
            if not (value is None or isinstance(value, types) or is_object):
                raise ConfigError(
                    f"{name}= takes {expected}, not {type(value).__name__}.", hint="Check the call."
                )
        return cls(**given) if given else _default_spec(cls)  # type: ignore[arg-type]

    def selected(self, *parts: str) -> dict[str, Any]:
        """The options that are set, as keyword arguments; only those of these parts, if any are given."""
        return {n: v for n in option_keywords(*(parts or _PARTS)) if (v := getattr(self, n)) is not None}


# The types that options accept in Python, where nothing else checks them, and their description.
_ACCEPTED_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "system": ((str, Sequence, Text), "a text"),
    "stop": ((Iterable,), "a text, or a list of texts"),
    "extra": ((Mapping,), "a dictionary"),
    "reasoning": ((str, Real), "a level, or a number of tokens"),
    "timeout": ((Real, Mapping), "seconds, or a dictionary of them"),
    "retries": ((Real,), "a number"),
    "max_steps": ((Real,), "a number"),
    "compact": ((str, Real), "a word, a share, or a number of tokens"),
    "base_url": ((str,), "an address"),
    "dialect": ((str,), "a word"),
    "mode": ((str,), "a word"),
    "failover": ((str,), "a word"),
    "cache": ((str, bool), "auto, off or 1h, true or refresh"),
    "tool_choice": ((str, Mapping), "a word, or the name of a tool"),
    "approve": ((str, bool, Callable), "a word, or a function"),  # type: ignore[dict-item]
    "keep": ((bool, int), "True or False"),
    "strict": ((bool, int), "True or False"),
    "sample": ((Real,), "a number"),
    "hedge": ((Real, str), "seconds"),
}
# Options that also accept an object of a higher layer: Timeouts and Retries, which check their own values.
_OBJECTS = ("timeout", "retries")


@functools.cache
def _default_spec(kind: type[CallSpec]) -> Any:
    return kind()


# The options of cells, which only the notebook uses. A Python keyword gets an underscore at its end (`as_`),
# and a dot becomes an underscore (`timeout_first`).
_CELL_OPTIONS: dict[str, dict[str, Any]] = {
    "runs": _metadata("int", "how often each model answers, side by side", minimum=1, default=False),
    "asserts": _metadata(
        "list",
        "what the answer must satisfy: contains: Paris, regex: ^\\d+$, json, latency: 2s, cost: 0.01, "
        "not ... for the opposite, or a function of this notebook; can be repeated",
        repeatable=True,
        default=False,
    ),
    "as_": _metadata(
        "choice",
        "the form of a structured answer in the variable: a DataFrame, or validated objects",
        values=("df", "object"),
        default=False,
    ),
    "def_": _metadata(
        "name",
        "makes the cell a Python function with its {names} as parameters: %%llm gemini/flash def=summarize",
        default=False,
    ),
    "save": _metadata(
        "kept",
        "saves the cell's text as a fragment for use=; prompts/NAME saves it in the project; sends nothing",
        default=False,
    ),
    "use": _metadata(
        "str",
        "prompts saved by save= or in prompts/NAME.md, separated by commas, to put before the cell's text",
        default=False,
    ),
    "chat": _metadata(
        "name",
        "continues the conversation of this name; running a cell again replaces its own turn",
        short="c",
        default=False,
    ),
    "out": _metadata("name", "variable for the response", short="o", default=False),
    "format": _metadata(
        "choice",
        "how the answer is shown; code is also put into the next cell, without running it",
        short="f",
        values=("md", "text", "json", "code", "html"),
    ),
    "attach": _metadata(
        "list",
        "a file, URL, variable or mcp://SERVER/RESOURCE to send with the prompt; can be repeated",
        short="a",
        repeatable=True,
        default=False,
    ),
    "dry_run": _metadata("bool", "show what would be sent, without sending it", short="n", default=False),
    "quiet": _metadata("bool", "show nothing; the answer is in the variable", short="q"),
    "render": _metadata(
        "choice", "how the answer is shown while it arrives", values=("live", "final", "plain")
    ),
    "timeout_connect": _metadata("duration", "time to connect (10 s)", default=False),
    "timeout_first": _metadata("duration", "time to the first token (120 s)", default=False),
    "timeout_idle": _metadata("duration", "time between two chunks (60 s)", default=False),
    "timeout_silent": _metadata(
        "duration", "time without a token, while the provider sends keep-alives (15 min)", default=False
    ),
    "timeout_total": _metadata("duration", "time limit for the complete call", default=False),
    "bg": _metadata(
        "bool",
        "runs in the background: the notebook is free at once, the answer appears in the cell as it arrives",
        project=False,
    ),
    "fill": _metadata(
        "choice", "which braces are filled: on, double (only {{ }}), off", values=("on", "double", "off")
    ),
    "each": _metadata(
        "name",
        "runs the prompt for every row of a DataFrame, with its columns in braces: each=reviews; the answers "
        "become new columns (of another variable with out=)",
        default=False,
    ),
    "into": _metadata(
        "name",
        "with each=: the column for the answer; with a schema, the prefix of its columns",
        default=False,
    ),
    "run": _metadata(
        "str",
        "with each=: a name under which answers are stored; stored ones are not requested again",
        default=False,
    ),
    "wait": _metadata(
        "bool",
        "with mode=batch: false does not wait; %llm batches gets the rows later",
        default=False,
    ),
    "width": _metadata("int", "with each=: rows in flight at once (64)", minimum=1),
    "executor": _metadata(
        "name",
        "with each=: a variable with a concurrent.futures.Executor or a dask client, whose threads, "
        "processes or machines send the rows",
        default=False,
    ),
    "show_reasoning": _metadata(
        "bool", "true shows the reasoning unfolded, false hides it; by default it is folded"
    ),
}
# The options of benchmarks, as bench.NAME: kind and help.
_BENCH_OPTIONS = {
    "blocks": ("int", "how often every model answers"),
    "cold": ("rungs", "true adds the cold-start ladder; or its rungs, separated by commas"),
    "concurrency": ("ints", "requests in flight for each model; several for a sweep"),
    "rate": ("numbers", "requests a second; several for a sweep"),
    "arrivals": ("str", "how requests arrive: constant, poisson or ramp"),
    "per_turn": ("int", "requests of a model in a block"),
    "batch": ("ints", "measures embeddings: texts per request; several are compared: 1,16,64"),
    "idle": ("pauses", "pauses in seconds before a turn: 0,30"),
    "think": ("numbers", "seconds for which a user thinks before the next message: 5, or 2,8"),
    "warmup": ("warmup", "auto until times are stable, or a number of requests"),
    "cooldown": ("int", "requests at the end of a load that are excluded"),
    "prefix": ("str", "unique defeats prompt caches, shared measures them"),
    "seed": ("int", "seed of the run's order; seed= is the one that each call sends"),
    "max_errors": ("int", "failures in a row after which a model gets no more requests: 10"),
    "stop_when": ("float", "relative half width of the interval at which a load ends early"),
    "prompt": ("str", "the column with the prompt in a table of prompts"),
    "score": ("str", "a column of expected answers, to score each answer"),
    "judge": ("str", 'the model that judges, with score="judge: which is more correct?"'),
    "asserts": ("list", "what an answer must satisfy: contains: Paris, json, latency: 2s; can be repeated"),
    "keep_answers": ("truth", "false stores no texts of answers"),
    "tokenizer": (
        "str",
        "the tokenizer for servers that do not count tokens: o200k_base, or a tokenizer.json",
    ),
    "detect": ("float", "the smallest difference to detect, 0.1: shows beforehand how many blocks it needs"),
    "metric": ("str", "the metric for stop_when"),
    "budget": ("budget", "US dollars, or usd:0.5,tokens:1000,seconds:60,requests:100"),
    "directory": ("str", "the folder of the run"),
    "prompts": ("str", "a variable's name or a file's path"),
}


def _options() -> Iterator[Option]:
    call_options = {f.name: f.metadata for f in fields(CallSpec)}
    for keyword, metadata in (*call_options.items(), *_CELL_OPTIONS.items()):
        name = keyword.replace("timeout_", "timeout.").removesuffix("_")
        yield Option(**{"name": name, "keyword": keyword, **metadata})
    for name, (kind, help) in _BENCH_OPTIONS.items():
        yield Option(
            f"bench.{name}",
            kind,
            help,
            f"bench_{name}",
            scope="bench",
            repeatable=kind == "list",
            default=False,
        )


OPTIONS = tuple(_options())


@functools.lru_cache(64)
def option_keywords(*parts: str) -> tuple[str, ...]:
    """The keyword arguments of a call that belong to these parts."""
    return tuple(o.keyword for o in OPTIONS if o.part in parts)


_PARTS = ("parameter", "request", "address", "sending", "use")
CALL_OPTIONS = option_keywords(*_PARTS)
REQUEST_OPTIONS = option_keywords("parameter", "request")
ADDRESS_OPTIONS = option_keywords("address")  # base_url, dialect, api_key
SENDING_OPTIONS = option_keywords("sending")

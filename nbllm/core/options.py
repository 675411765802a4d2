"""Every option, once: those of a call are the fields of `CallSpec`, those of its cell and of a benchmark
stand in the tables behind it. What is read on a line, completed, explained, a default, sent, recorded or
taken by a benchmark is derived from them."""

# ruff: noqa: RUF009 - the helpers below make fields

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Self

from .errors import ConfigError, did_you_mean
from .messages import Effort, Text

# What people's fingers write instead, and what they mean: first what is meant, then the words of other tools.
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
    """One option. name: on a line; keyword: in Python; kind: how its text is read ("" where no line has it).

    scope: call, cell (the notebook's own) or bench (of a whole run). part: where an option of a call goes: a
    parameter of the request as it is, the request, the address, or the sending. values: what may be chosen;
    least: the smallest number; many: it may be given again; default: a notebook may have a default for it;
    project: a project's file may choose that default.
    """

    name: str
    kind: str = ""
    help: str = ""
    keyword: str = ""
    short: str = ""
    scope: str = "cell"
    part: str = ""
    values: tuple[str, ...] = ()
    least: float | None = None
    many: bool = False
    default: bool = True
    project: bool = True


def _about(kind: str, words: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "help": words, **more}


def _call(part: str, kind: str, words: str, **more: Any) -> Any:
    return field(default=None, metadata=_about(kind, words, **{"scope": "call", "part": part, **more}))


LEDGERS = ("disk", "memory", "texts")  # where calls are noted; texts: on disk, with prompts and answers
_EFFORTS = ("none", "minimal", "low", "medium", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpec:
    """The options of a call; None where nothing was chosen."""

    model: str | None = _call(
        "",
        "models",
        "which model answers: gemini/pro, auto ...; several, joined by commas, answer side by side; a|b "
        "asks b where a fails; cheap(a|b) and fast(a|b) begin with the one that costs or takes least",
        short="m",
    )
    system: str | None = _call("request", "str", "what the model is told about its role", short="s")
    temperature: float | None = _call(
        "parameter",
        "floats",
        "0 for the most likely words, higher for more varied ones; several are compared: 0,0.7",
        short="t",
        least=0,
    )
    max_tokens: int | None = _call("parameter", "int", "the longest answer, in tokens", least=1)
    top_p: float | None = _call("parameter", "float", "share of the likeliest words to choose from", least=0)
    stop: str | Iterable[str] | None = _call(
        "parameter", "list", "text at which the answer ends; may be given again", many=True
    )
    seed: int | None = _call("parameter", "int", "same seed, same answer, where the provider can")
    reasoning: Effort | int | None = _call(
        "parameter", "effort", "how much to think: a word, or a budget in tokens", values=_EFFORTS
    )
    schema: Any = _call(
        "request",
        "str",
        'structure of the answer: "name, age int", a JSON schema, or a variable\'s name',
        default=False,
    )
    timeout: Any = _call("sending", "duration", "the longest time in all: 30, 30s, 2m")
    retries: Any = _call("sending", "int", "how often to ask again before anything was shown (2)", least=0)
    keep: bool | None = _call(
        "sending",
        "bool",
        "a headless CLI stays for the next cell, which it answers sooner: model=cli/claude keep=true",
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
        "when a conversation (chat=, tools=) is shortened: auto, off, a share of what the model reads (0.8), "
        "or tokens",
    )
    budget: Any = _call(  # a benchmark's line has a budget of its own
        "use",
        "budget",
        "tokens that a variable put into the prompt may take (1000): tables are sampled to fit; or what the "
        "cell may spend, all its answers together: $0.5, or usd:0.5,tokens:20000; with each=, "
        "a bare number is dollars, for all rows",
        scope="cell",
        least=20,
    )
    mode: str | None = _call(
        "sending",
        "choice",
        "with each=: batch hands all rows in at once, to be answered within a day at half the price; of "
        "cli/...: execute lets the agent use its tools, and asks before they change something (query: none)",
        values=("now", "batch", "query", "execute"),
        default=False,
        project=False,
    )
    tools: Any = _call(
        "request",
        "names",
        "what the model may use, joined by commas: functions of this notebook and methods of its objects",
        default=False,
    )
    strict: bool | None = _call(
        "use",
        "bool",
        "the provider holds calls of tools, and an answer with schema=, to their schemas: rewritten for it, "
        "or an error says why not",
        default=False,
    )
    max_steps: int | None = _call(
        "use", "int", "turns that a model with tools may take (10); the last one is its answer", least=1
    )
    approve: Any = _call(
        "use",
        "choice or function",
        "before a tool runs: ask; auto runs all; never none but those that only read; or a function of the "
        "notebook decides, which is given the question",
        values=("ask", "auto", "never"),
        project=False,
    )
    cache: str | None = _call(
        "parameter",
        "choice",
        "whether the provider is asked to keep the prompt for the next one that begins like it: auto (where "
        "chat= or tools= go on), off, 1h for longer; true gives the answer that an equal call had before, "
        "refresh asks anew and keeps that one",
        values=("auto", "off", "1h", "true", "refresh"),
    )
    failover: str | None = _call(
        "sending",
        "choice",
        "with model=a|b: start asks b only before a has begun to answer; restart also later, not a's words; "
        "content also where a's filter refused",
        values=("start", "restart", "content"),
        default=False,
    )
    hedge: float | None = _call(
        "sending",
        "duration",
        "asks a second time where no token has come for so long; the first to begin is read: hedge=2s",
        default=False,
    )
    label: str | None = _call(
        "sending",
        "word",
        "a word that the call's rows in the log have: %llm cost by=label; with use= it is the prompt's name "
        "and version",
    )
    sample: int | None = _call("sending", "", "which of several answers to one question", default=False)
    tool_choice: str | None = _call(
        "parameter",
        "word",
        "whether a model with tools has to call one in its first turn: auto, none, required, or which one",
        default=False,
    )
    extra: Mapping[str, Any] | None = _call("request", "", "", default=False)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The options of a call from keyword arguments. Raises ConfigError for a name that no call has."""
        if odd := next((name for name in given if name not in CALL), None):
            raise ConfigError(
                f"A call has no option {odd!r}.",
                hint="nbllm.stream(...) gives an answer as it comes."
                if odd == "stream"
                else did_you_mean(meant if (meant := ALIASES.get(odd)) in CALL else odd, CALL),
            )
        for name, (kinds, words) in _TAKES.items():
            value = given.get(name)
            own = name in _OWN and hasattr(value, "__dataclass_fields__")
            if not (value is None or isinstance(value, kinds) or own):
                raise ConfigError(
                    f"{name}= takes {words}, and no {type(value).__name__}.", hint="Check the call."
                )
        return cls(**given) if given else _usual(cls)  # type: ignore[arg-type]

    def selected(self, *parts: str) -> dict[str, Any]:
        """The options that were chosen, as keyword arguments; those that go to these parts of a call."""
        return {n: v for n in keywords(*(parts or _PARTS)) if (v := getattr(self, n)) is not None}


# What an option takes in Python, where nothing else looks at it: types, and how they are called.
_TAKES: dict[str, tuple[tuple[type, ...], str]] = {
    "system": ((str, Sequence, Text), "a text"),
    "stop": ((Iterable,), "a text, or a list of texts"),
    "extra": ((Mapping,), "a dictionary"),
    "reasoning": ((str, Real), "a word, or a number of tokens"),
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
# Those for which a part above has a class of its own, Timeouts and Retries, which look at what they get.
_OWN = ("timeout", "retries")


@functools.cache
def _usual(kind: type[CallSpec]) -> Any:
    return kind()


# A word that Python keeps for itself ends in an underscore (`as_`); a dot is one too (`timeout_first`).
# Those of the cell that a call stands in, which nothing but the notebook knows.
_OF_CELLS: dict[str, dict[str, Any]] = {
    "runs": _about("int", "how often each model answers, side by side", least=1, default=False),
    "asserts": _about(
        "list",
        "what the answer must be: contains: Paris, regex: ^\\d+$, json, latency: 2s, cost: 0.01, "
        "not ... for the opposite, or a function of this notebook; may be given again",
        many=True,
        default=False,
    ),
    "as_": _about(
        "choice",
        "what the variable takes of a structured answer: a DataFrame, or checked objects",
        values=("df", "object"),
        default=False,
    ),
    "def_": _about(
        "name",
        "makes the cell a Python function of its {names}: %%llm gemini/flash def=summarize",
        default=False,
    ),
    "save": _about(
        "kept",
        "keeps the cell's text as a fragment for use=; prompts/NAME keeps it in the project; sends nothing",
        default=False,
    ),
    "use": _about(
        "str",
        "prompts kept by save= or in prompts/NAME.md, joined by commas, that stand before the cell's text",
        default=False,
    ),
    "chat": _about(
        "name",
        "goes on with the conversation of this name; running a cell again replaces its own turn",
        short="c",
        default=False,
    ),
    "out": _about("name", "variable for the response", short="o", default=False),
    "format": _about(
        "choice",
        "how the answer is shown; code goes into the next cell as well, unrun",
        short="f",
        values=("md", "text", "json", "code", "html"),
    ),
    "attach": _about(
        "list",
        "a file, address, variable or mcp://SERVER/RESOURCE that goes with the prompt; may be given again",
        short="a",
        many=True,
        default=False,
    ),
    "dry_run": _about("bool", "show what would be sent, send nothing", short="n", default=False),
    "quiet": _about("bool", "show nothing; the answer is in the variable", short="q"),
    "render": _about("choice", "how the answer is drawn while it comes", values=("live", "final", "plain")),
    "timeout_connect": _about("duration", "time to connect (10 s)", default=False),
    "timeout_first": _about("duration", "time to the first token (120 s)", default=False),
    "timeout_idle": _about("duration", "time between two pieces (60 s)", default=False),
    "timeout_silent": _about(
        "duration", "time without a token, while the provider shows that it lives (15 min)", default=False
    ),
    "timeout_total": _about("duration", "the longest time in all", default=False),
    "bg": _about(
        "bool",
        "goes on in the background: the prompt comes back at once, the answer grows in its cell",
        project=False,
    ),
    "fill": _about(
        "choice", "which braces are filled: on, double (only {{ }}), off", values=("on", "double", "off")
    ),
    "each": _about(
        "name",
        "asks for every row of a DataFrame, whose columns are in braces: each=reviews; it gets "
        "the answers as new columns (out= names another variable)",
        default=False,
    ),
    "into": _about(
        "name",
        "with each=: the column of the answer; with a schema, what its columns begin with",
        default=False,
    ),
    "run": _about(
        "str",
        "with each=: a name under which answers are kept; what is there is not asked again",
        default=False,
    ),
    "wait": _about(
        "bool",
        "with mode=batch: false gives the prompt back at once; %llm batches has the rows later",
        default=False,
    ),
    "width": _about("int", "with each=: rows on their way at once (64)", least=1),
    "executor": _about(
        "name",
        "with each=: the variable of a concurrent.futures.Executor, or of a client of dask, "
        "whose threads, processes or machines send the rows",
        default=False,
    ),
    "show_reasoning": _about(
        "bool", "true shows what a model thinks unfolded, false not at all; without it, it stands folded"
    ),
}
# Those of a benchmark, as bench.NAME: kind and help.
_OF_RUNS = {
    "blocks": ("int", "how often every model answers"),
    "cold": ("rungs", "true adds the cold-start ladder; or its rungs, joined by commas"),
    "concurrency": ("ints", "requests in flight for each model; several for a sweep"),
    "rate": ("numbers", "requests a second; several for a sweep"),
    "arrivals": ("str", "how requests arrive: constant, poisson or ramp"),
    "per_turn": ("int", "requests of a model in a block"),
    "batch": ("ints", "measures embeddings: texts in one request; several are compared: 1,16,64"),
    "idle": ("pauses", "pauses in seconds before a turn: 0,30"),
    "think": ("numbers", "seconds in which a user thinks before going on: 5, or 2,8"),
    "warmup": ("warmup", "auto until times are stable, or a number of requests"),
    "cooldown": ("int", "requests at the end of a load that are not counted"),
    "prefix": ("str", "unique defeats prompt caches, shared measures them"),
    "seed": ("int", "of the run's own order; seed= is the one that each call sends"),
    "max_errors": ("int", "failures in a row after which a model is asked no more: 10"),
    "stop_when": ("float", "relative half width of the interval at which a load ends early"),
    "prompt": ("str", "the column of a table of prompts that is asked"),
    "score": ("str", "a column of expected answers: gives each answer a score"),
    "judge": ("str", 'the model that judges, with score="judge: which is more correct?"'),
    "asserts": ("list", "what an answer must be: contains: Paris, json, latency: 2s; may be given again"),
    "keep_answers": ("truth", "false keeps no texts of answers"),
    "tokenizer": ("str", "who counts tokens where a server does not: o200k_base, or a tokenizer.json"),
    "detect": ("float", "the smallest difference worth finding, 0.1: says beforehand what blocks it needs"),
    "metric": ("str", "the figure that stop_when looks at"),
    "budget": ("budget", "US dollars, or usd:0.5,tokens:1000,seconds:60,requests:100"),
    "directory": ("str", "where the run is kept"),
    "prompts": ("str", "a variable's name or a file's path"),
}


def _options() -> Iterator[Option]:
    of_calls = {f.name: f.metadata for f in fields(CallSpec)}
    for keyword, about in (*of_calls.items(), *_OF_CELLS.items()):
        name = keyword.replace("timeout_", "timeout.").removesuffix("_")
        yield Option(**{"name": name, "keyword": keyword, **about})
    for name, (kind, words) in _OF_RUNS.items():
        yield Option(
            f"bench.{name}", kind, words, f"bench_{name}", scope="bench", many=kind == "list", default=False
        )


OPTIONS = tuple(_options())


@functools.lru_cache(64)
def keywords(*parts: str) -> tuple[str, ...]:
    """The keyword arguments of a call that go to these parts of it."""
    return tuple(o.keyword for o in OPTIONS if o.part in parts)


_PARTS = ("parameter", "request", "address", "sending", "use")
CALL = keywords(*_PARTS)
REQUEST = keywords("parameter", "request")
ADDRESS = keywords("address")  # base_url, dialect, api_key
SENDING = keywords("sending")

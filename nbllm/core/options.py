"""Every option of a call, once: `CallSpec`. What is read on a line, completed, explained, a default, sent,
recorded or taken by a benchmark is derived from its fields."""

# ruff: noqa: RUF009 - the helpers below make fields

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from .errors import ConfigError, did_you_mean
from .messages import Effort


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


def _cell(kind: str, words: str, **more: Any) -> Any:
    return field(default=None, metadata={"kind": kind, "help": words, **more})


def _call(part: str, kind: str, words: str, **more: Any) -> Any:
    return _cell(kind, words, scope="call", part=part, **more)


def _bench(kind: str, words: str) -> Any:
    return _cell(kind, words, scope="bench", default=False)


LEDGERS = ("disk", "memory", "texts")  # where calls are noted; texts: on disk, with prompts and answers
_EFFORTS = ("none", "minimal", "low", "medium", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpec:
    """The options of a call, of its cell, and of a benchmark of calls; None where nothing was chosen. A word
    that Python keeps for itself ends in an underscore here (`as_`), a dot is one too (`timeout_first`)."""

    model: str | None = _cell(
        "models",
        "which model answers: gemini/pro, auto ...; several, joined by commas, answer side by side; a|b "
        "asks b where a fails; cheap(a|b) and fast(a|b) begin with the one that costs or takes least",
        short="m",
        scope="call",
    )
    system: str | None = _call("request", "str", "what the model is told about its role", short="s")
    temperature: float | None = _call(
        "parameter",
        "floats",
        "0 for the most likely words, higher for more varied ones; several are compared: 0,0.7",
        short="t",
        least=0,
    )
    runs: int | None = _cell("int", "how often each model answers, side by side", least=1, default=False)
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
    asserts: Any = _cell(
        "list",
        "what the answer must be: contains: Paris, regex: ^\\d+$, json, latency: 2s, cost: 0.01, "
        "not ... for the opposite, or a function of this notebook; may be given again",
        many=True,
        default=False,
    )
    as_: str | None = _cell(
        "choice",
        "what the variable takes of a structured answer: a DataFrame, or checked objects",
        values=("df", "object"),
        default=False,
    )
    def_: str | None = _cell(
        "name",
        "makes the cell a Python function of its {names}: %%llm gemini/flash def=summarize",
        default=False,
    )
    save: str | None = _cell(
        "kept",
        "keeps the cell's text as a fragment for use=; prompts/NAME keeps it in the project; sends nothing",
        default=False,
    )
    use: str | None = _cell(
        "str",
        "prompts kept by save= or in prompts/NAME.md, joined by commas, that stand before the cell's text",
        default=False,
    )
    chat: str | None = _cell(
        "name",
        "goes on with the conversation of this name; running a cell again replaces its own turn",
        short="c",
        default=False,
    )
    out: str | None = _cell("name", "variable for the response", short="o", default=False)
    format: str | None = _cell(
        "choice",
        "how the answer is shown; code goes into the next cell as well, unrun",
        short="f",
        values=("md", "text", "json", "code", "html"),
    )
    attach: Iterable[str] | None = _cell(
        "list",
        "a file, address, variable or mcp://SERVER/RESOURCE that goes with the prompt; may be given again",
        short="a",
        many=True,
        default=False,
    )
    dry_run: bool | None = _cell("bool", "show what would be sent, send nothing", short="n", default=False)
    quiet: bool | None = _cell("bool", "show nothing; the answer is in the variable", short="q")
    render: str | None = _cell(
        "choice", "how the answer is drawn while it comes", values=("live", "final", "plain")
    )
    timeout: Any = _call("sending", "duration", "the longest time in all: 30, 30s, 2m")
    timeout_connect: float | None = _cell("duration", "time to connect (10 s)", default=False)
    timeout_first: float | None = _cell("duration", "time to the first token (120 s)", default=False)
    timeout_idle: float | None = _cell("duration", "time between two pieces (60 s)", default=False)
    timeout_silent: float | None = _cell(
        "duration", "time without a token, while the provider shows that it lives (15 min)", default=False
    )
    timeout_total: float | None = _cell("duration", "the longest time in all", default=False)
    retries: Any = _call("sending", "int", "how often to ask again before anything was shown (2)", least=0)
    bg: bool | None = _cell(
        "bool",
        "goes on in the background: the prompt comes back at once, the answer grows in its cell",
        project=False,
    )
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
    budget: Any = _cell(  # a benchmark's line has a budget of its own
        "budget",
        "tokens that a variable put into the prompt may take (1000): tables are sampled to fit; or what the "
        "cell may spend, all its answers together: $0.5, or usd:0.5,tokens:20000; with each=, "
        "a bare number is dollars, for all rows",
        part="use",
        least=20,
    )
    fill: str | None = _cell(
        "choice",
        "which braces are filled: on, double (only {{ }}), off",
        values=("on", "double", "off"),
    )
    each: str | None = _cell(
        "name",
        "asks for every row of a DataFrame, whose columns are in braces: each=reviews; it gets the answers "
        "as new columns (out= names another variable)",
        default=False,
    )
    into: str | None = _cell(
        "name",
        "with each=: the column of the answer; with a schema, what its columns begin with",
        default=False,
    )
    run: str | None = _cell(
        "str",
        "with each=: a name under which answers are kept; what is there is not asked again",
        default=False,
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
    wait: bool | None = _cell(
        "bool",
        "with mode=batch: false gives the prompt back at once; %llm batches has the rows later",
        default=False,
    )
    width: int | None = _cell("int", "with each=: rows on their way at once (64)", least=1)
    executor: str | None = _cell(
        "name",
        "with each=: the variable of a concurrent.futures.Executor, or of a client of dask, whose threads, "
        "processes or machines send the rows",
        default=False,
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
        "choice",
        "before a tool runs: ask; auto runs all; never none but those that only read",
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
        "with model=a|b: start asks b only before a has begun to answer; restart also later, not a's words",
        values=("start", "restart"),
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
    show_reasoning: bool | None = _cell(
        "bool", "true shows what a model thinks unfolded, false not at all; without it, it stands folded"
    )
    tool_choice: str | None = _call("parameter", "", "", default=False)
    extra: Mapping[str, Any] | None = _call("request", "", "", default=False)

    bench_blocks: Any = _bench("int", "how often every model answers")
    bench_cold: Any = _bench("rungs", "true adds the cold-start ladder; or its rungs, joined by commas")
    bench_concurrency: Any = _bench("ints", "requests in flight for each model; several for a sweep")
    bench_rate: Any = _bench("numbers", "requests a second; several for a sweep")
    bench_arrivals: Any = _bench("str", "how requests arrive: constant, poisson or ramp")
    bench_per_turn: Any = _bench("int", "requests of a model in a block")
    bench_batch: Any = _bench(
        "ints", "measures embeddings: texts in one request; several are compared: 1,16,64"
    )
    bench_idle: Any = _bench("pauses", "pauses in seconds before a turn: 0,30")
    bench_think: Any = _bench("numbers", "seconds in which a user thinks before going on: 5, or 2,8")
    bench_warmup: Any = _bench("warmup", "auto until times are stable, or a number of requests")
    bench_cooldown: Any = _bench("int", "requests at the end of a load that are not counted")
    bench_prefix: Any = _bench("str", "unique defeats prompt caches, shared measures them")
    bench_seed: Any = _bench("int", "of the run's own order; seed= is the one that each call sends")
    bench_max_errors: Any = _bench("int", "failures in a row after which a model is asked no more: 10")
    bench_stop_when: Any = _bench("float", "relative half width of the interval at which a load ends early")
    bench_prompt: Any = _bench("str", "the column of a table of prompts that is asked")
    bench_score: Any = _bench("str", "a column of expected answers: gives each answer a score")
    bench_judge: Any = _bench("str", 'the model that judges, with score="judge: which is more correct?"')
    bench_asserts: Any = _cell(
        "list",
        "what an answer must be: contains: Paris, json, latency: 2s; may be given again",
        scope="bench",
        many=True,
        default=False,
    )
    bench_keep_answers: Any = _bench("truth", "false keeps no texts of answers")
    bench_tokenizer: Any = _bench(
        "str", "who counts tokens where a server does not: o200k_base, or a tokenizer.json"
    )
    bench_detect: Any = _bench(
        "float", "the smallest difference worth finding, 0.1: says beforehand what blocks it needs"
    )
    bench_metric: Any = _bench("str", "the figure that stop_when looks at")
    bench_budget: Any = _bench("budget", "US dollars, or usd:0.5,tokens:1000,seconds:60,requests:100")
    bench_directory: Any = _bench("str", "where the run is kept")
    bench_prompts: Any = _bench("str", "a variable's name or a file's path")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The options of a call from keyword arguments. Raises ConfigError for a name that no call has."""
        if odd := next((name for name in given if name not in CALL), None):
            raise ConfigError(f"A call has no option {odd!r}.", hint=did_you_mean(odd, CALL))
        return cls(**given) if given else _usual(cls)  # type: ignore[arg-type]

    def chosen(self, *parts: str) -> dict[str, Any]:
        """The options that were chosen, as keyword arguments; those that go to these parts of a call."""
        return {n: v for n in keywords(*(parts or _PARTS)) if (v := getattr(self, n)) is not None}


@functools.cache
def _usual(kind: type[CallSpec]) -> Any:
    return kind()


def _name(keyword: str) -> str:
    head, _, rest = keyword.partition("_")
    return f"{head}.{rest}" if rest and head in ("bench", "timeout") else keyword.removesuffix("_")


OPTIONS: tuple[Option, ...] = tuple(
    Option(**{"name": _name(f.name), "keyword": f.name, **f.metadata}) for f in fields(CallSpec)
)


@functools.lru_cache(64)
def keywords(*parts: str) -> tuple[str, ...]:
    """The keyword arguments of a call that go to these parts of it."""
    return tuple(o.keyword for o in OPTIONS if o.part in parts)


_PARTS = ("parameter", "request", "address", "sending", "use")
CALL = keywords(*_PARTS)
REQUEST = keywords("parameter", "request")
ADDRESS = keywords("address")  # base_url, dialect, api_key
SENDING = keywords("sending")

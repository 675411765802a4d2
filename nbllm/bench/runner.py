"""`bench.run`: makes a job of its arguments, lets a worker process run it, and returns its rows as a
DataFrame."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import secrets
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..client.api import default_client
from ..client.client import Client
from ..client.embeddings import embedder, vector_options
from ..client.policy import Timeouts
from ..client.prepare import missing_key_error
from ..client.unloading import can_unload
from ..core import addresses, errors
from ..core.messages import Text
from ..core.options import ADDRESS_OPTIONS, REQUEST_OPTIONS, SENDING_OPTIONS
from ..routing import prices
from ..store import columns
from . import counting, plan, planning, prompts
from .achieved_load import missed_load_warning
from .progress import Progress
from .prompts import prompt_set as prompts_of
from .quality import Quality, Scorer
from .run_spec import Contestant, Job, Rules, add_headers, check_headers, describe_provider, differences
from .store import FILE, POINTER_SUFFIX, Store, find_run, open_runs, runs_directory
from .supervisor import run_job
from .traces import Trace
from .words import OPTION_SYNONYMS

if TYPE_CHECKING:
    import pandas as pd

Model = str | Mapping[str, Any]


def run(
    models: Model | Sequence[Model],
    prompts: Any = None,
    *,
    blocks: int = 10,
    cold: bool | Sequence[str] = False,
    concurrency: int | Sequence[int] | None = None,
    rate: float | Sequence[float] | None = None,
    arrivals: Any = None,
    per_turn: int | None = None,
    batch: int | Sequence[int] | None = None,
    idle: Sequence[float] = (0.0,),
    think: float | Sequence[float] | None = None,
    warmup: int | str = "auto",
    cooldown: int = 0,
    prefix: str | None = None,
    seed: int | None = None,
    stop_when: float | None = None,
    detect: float | None = None,
    metric: str = "ttft_ms",
    budget: float | Mapping[str, float] | None = None,
    max_errors: int | None = 10,
    directory: str | os.PathLike[str] | None = None,
    prompt: str | None = None,
    keep_answers: bool = True,
    score: str | Scorer | None = None,
    judge: str | None = None,
    asserts: Any = None,
    tokenizer: Any = None,
    progress: Progress | bool | None = None,
    client: Client | None = None,
    disturb: tuple[float, float] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Measures `models` against each other and returns one row per attempt, in the columns of
    `bench.schema()`.

    models: names, or dicts of options with `model` in it (`name` is its label; `headers` are sent with its
    requests only; a `tokenizer` of its own). prompts: see `bench.prompt_set`; None is a small built-in set; a
    `bench.trace` has its own times. prompt: the column of a table with the prompts; its other columns are
    kept. blocks: how often every model answers; within a block all models answer the same prompt, in random
    order. cold: True adds the cold-start ladder; or the start kinds to measure (see columns.START_KINDS).

    concurrency: requests in flight for each model (closed loop), several for a sweep. rate: requests per
    second (open loop; arrivals "constant", "poisson" or recorded times; a pair (from, to) with
    arrivals="ramp"). per_turn: requests of a model in a block; None for as many as a steady load needs: ten
    times the concurrency, or ten seconds of a rate (the first and last ones have the phases "ramp" and
    "drain"). batch: measures embeddings, with so many texts per request (those of this and the following
    prompts); each of several numbers is a contestant of its own, named "NAME x16". think: seconds between an
    answer and the user's next message, in a conversation and in a closed loop; a pair is a uniform range.
    idle: pauses in seconds before a turn. warmup: "auto" until times are stable, or a number of requests.
    cooldown: requests at the end of a turn that do not count. prefix: "unique" defeats prompt caches,
    "shared" measures them.

    detect: the smallest difference to detect, 0.1 for 10 %: if the blocks are too few for it, a warning with
    the power and the number of blocks needed is shown before anything is sent. stop_when: the relative half
    width of `metric`'s interval at which a load level ends early. budget: US dollars, or {"usd", "tokens",
    "seconds", "requests"}; it includes requests in flight, and continues when a run is resumed. max_errors:
    consecutive failures after which a model gets no more requests; None for no limit. keep_answers: False
    stores no texts (see `bench.answers`). score: a column of expected answers, which the answers must
    contain, or a function of an answer and of the other columns of its prompt; it adds a column score; or
    "judge: which answer is more correct?", which the model judge decides for each pair of answers (see
    `bench.judge`). asserts: what an answer must satisfy (see docs/benchmarks.md): adds columns check_NAME and
    passed. tokenizer: counts tokens where a server does not: a name of tiktoken's, a Hugging Face
    tokenizer.json, a tokenizer, or a function of a text; without it they are estimated (tok_source).
    directory: where the run is stored. progress: False for none, or a display. disturb: see selftest.
    options: of every call, such as max_tokens, temperature, timeout.

    A failed request is a row with its status. Stop (Ctrl-C) ends the run and returns its rows so far;
    `bench.resume` continues it. Raises ConfigError for invalid arguments.
    """
    model_list = (
        list(models) if isinstance(models, Iterable) and not isinstance(models, (str, Mapping)) else [models]
    )
    _check_options(
        models=model_list,
        idle=idle,
        think=think,
        warmup=warmup,
        cooldown=cooldown,
        prefix=prefix,
        seed=seed,
        stop_when=stop_when,
        metric=metric,
        cold=cold,
        max_errors=max_errors,
        directory=directory,
        keep_answers=keep_answers,
        disturb=disturb,
        retries=options.get("retries"),
    )
    client = client or default_client()
    common = {**options, "tokenizer": counting.token_counter(tokenizer)}
    contestants = _contestants(list(_expand_batches(model_list, batch)), common, client)
    is_trace = isinstance(prompts, Trace)
    if is_trace:
        prompts, arrivals = _trace_load(prompts, (concurrency, rate, arrivals, per_turn))
    prompt_set = prompts_of(prompts, prompt)
    quality = Quality.of(asserts, score, judge)
    quality.check(keep_answers, prompt_set, vectors=any(contestant.batch for contestant in contestants))
    if judge is not None:  # checked before anything costs money
        client.resolve(judge, None, None).check()
        if len(contestants) < 2:
            raise errors.ConfigError("A judge needs the answers of two models.", hint="Add another model.")
    seed = secrets.randbelow(2**31) if seed is None else seed
    loads = plan.LoadShape.of(concurrency=concurrency, rate=rate, arrivals=arrivals, per_turn=per_turn)
    loads = tuple(replace(load, aligned=is_trace) for load in loads)
    start_kinds = (
        (columns.START_KINDS if cold else ("warm",)) if isinstance(cold, bool) else _start_kinds(cold)
    )
    turns = plan.plan(
        len(contestants),
        len(prompt_set),
        blocks=blocks,
        loads=loads,
        start_kinds=start_kinds,
        idle=tuple(idle),
        seed=seed,
        cooldown=cooldown,
    )
    turns = _drop_impossible_turns(turns, contestants, client, strict=not isinstance(cold, bool))
    run_limits = plan.Budget.of(budget)
    rules = Rules(
        seed,
        warmup,
        prefix,
        _budget_limits(run_limits),
        stop_when,
        metric,
        disturb,
        max_errors,
        keep_answers,
        None if think is None else tuple(think) if isinstance(think, Sequence) else (think, think),  # type: ignore[arg-type]
    )
    run_id = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)
    run_path = Path(directory) if directory is not None else runs_directory() / run_id
    if _has_job(run_path):
        raise errors.ConfigError(
            f"{run_path} already has a run.",
            hint=f"Continue it with bench.resume({str(run_path)!r}), or choose another directory.",
        )
    job = Job(run_id, contestants, prompt_set, turns, rules)
    _check_requests(job, client)
    _check_prices(contestants, run_limits)
    warning = " ".join(
        filter(None, (planning.power_warning(len(contestants), blocks, detect), plan.unsteady_warning(loads)))
    )
    if warning and (detect is not None or progress is not False):  # False: nothing is shown
        warnings.warn(warning, stacklevel=2)
    if directory is not None:
        with contextlib.suppress(OSError):  # the run is found by its directory all the same
            runs_directory().mkdir(parents=True, exist_ok=True)
            (runs_directory() / f"{run_id}{POINTER_SUFFIX}").write_text(str(run_path.absolute()), "utf-8")
    with Store(run_path, create=True) as store:
        store.put(run_id=run_id, about=_run_metadata(job, blocks), job=job.public(), quality=quality.public())
    df = run_job(run_path, job, progress)
    if progress is not False and (warning := missed_load_warning(df)):
        warnings.warn(warning, stacklevel=2)
    quality.apply(run_path, df, client)
    return df


def resume(
    run: str | os.PathLike[str] | pd.DataFrame,
    *,
    api_key: Mapping[str, str] | None = None,
    base_url: Mapping[str, str] | None = None,
    dialect: Mapping[str, str] | None = None,
    headers: Mapping[str, Mapping[str, str]] | None = None,
    tokenizer: Any = None,
    asserts: Any = None,
    score: str | Scorer | None = None,
    judge: str | None = None,
    budget: float | Mapping[str, float] | None = None,
    progress: Progress | bool | None = None,
    client: Client | None = None,
) -> pd.DataFrame:
    """Continues a run that was stopped or killed (given by directory, run_id or frame), and returns its
    frame.

    A run's file names its models only: each is looked up again in the configuration of this session, with its
    key, address and format. What was passed explicitly must be passed again, by the model's name: api_key,
    base_url, dialect, headers; and the tokenizer, one for all or by name. The run's assertions and score are
    applied to the complete frame; functions must be passed again, assertions by name (asserts, score and
    judge replace the run's own). A judge sees only blocks that it has not seen yet. budget replaces the run's
    own; what the run has spent before counts; None keeps the old one.

    Raises ConfigError, before anything is sent, where something is missing or a model's configuration has
    changed: the run may come from somebody else.
    """
    limits = None if budget is None else _budget_limits(plan.Budget.of(budget))
    client = client or default_client()
    run_path = _run_directory(run)
    with Store(run_path) as store:
        public, stored_quality = store.get("job"), store.get("quality", {})
    if public is None:
        raise errors.ConfigError(
            f"The run in {run_path} ended before it started.", hint="Start it again with bench.run(...)."
        )
    by_hand: dict[str, Mapping[str, Any]] = {
        "api_key": api_key or {},
        "base_url": base_url or {},
        "dialect": dialect or {},
    }
    try:
        by_hand |= {"headers": headers or {}, "tokenizer": _tokenizers_by_name(tokenizer, public)}
        _check_names(by_hand, [stored["name"] for stored in public["arms"]])
        if limits is not None:
            public["rules"]["budget"] = limits
        job = Job.of(public, [_restore_contestant(stored, by_hand, client) for stored in public["arms"]])
        quality = Quality.resumed(stored_quality, asserts, score, judge)
        quality.check(
            job.rules.answers, job.prompts, vectors=any(contestant.batch for contestant in job.contestants)
        )
        _reject_agent_options(job)
        _check_requests(job, client)
        if limits is not None:
            _check_prices(job.contestants, plan.Budget.of(budget))
        with Store(run_path) as store:
            store.put(job=public, quality=quality.public())
    except errors.ConfigError:
        raise
    except (errors.ProtocolError, LookupError, TypeError, ValueError, AttributeError):
        raise errors.ConfigError(
            f"The job of the run in {run_path} cannot be read.",
            hint="Load its rows with bench.load, or start a new run with bench.run(...).",
        ) from None
    df = run_job(run_path, job, progress)
    quality.apply(run_path, df, client)
    return df


def _tokenizers_by_name(tokenizer: Any, public: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tokenizer of each model whose tokens the run counts."""
    if isinstance(tokenizer, Mapping):
        return tokenizer
    names = [a["name"] for a in public["arms"] if a.get("counted")]
    return dict.fromkeys(names, tokenizer) if tokenizer is not None else {}


def runs() -> pd.DataFrame:
    """The runs stored on this machine, newest first: run_id, created, models, rows, ended, directory."""
    import pandas as pd

    rows = []
    names = {at.name.removesuffix(POINTER_SUFFIX) for at in runs_directory().glob(f"*{POINTER_SUFFIX}")}
    names |= {at.parent.name for at in runs_directory().glob(f"*/{FILE}")}
    for name in sorted(names, reverse=True):
        with contextlib.suppress(Exception), Store(path := find_run(name) or runs_directory()) as store:
            metadata = store.get("about", {})
            rows.append(
                {
                    "run_id": store.get("run_id"),
                    "created": metadata.get("created"),
                    "models": ", ".join(metadata.get("models", [])),
                    "rows": len(store.rows()),
                    "ended": store.get("ended", "cut short"),
                    "directory": str(path),
                }
            )
    return pd.DataFrame(rows, columns=["run_id", "created", "models", "rows", "ended", "directory"])


def chunks(df: pd.DataFrame) -> pd.DataFrame:
    """The chunks of the requests in `df` as a long frame: one row per event, with its arrival time and
    bounds.

    Raises ConfigError where a run's directory is not on this machine.
    """
    import pandas as pd

    frames = [store.chunks(part["request_id"].dropna()) for part, store in open_runs(df, "chunks")]
    return (
        columns.cast(pd.concat(frames, ignore_index=True), columns.CHUNKS)
        if frames
        else columns.frame([], columns.CHUNKS)
    )


def tokens(df: pd.DataFrame) -> pd.DataFrame:
    """The chunks that have tokens as one row per token: `token` from 0, its t_ms, and `interpolated` where
    several tokens came in one chunk and are spread evenly over the time since the previous one. Chunks of
    unknown count get their share of the request's streamed tokens, at least one."""
    from .token_times import token_rows

    return token_rows(df, chunks(df))


# --- contestants ---


def _contestants(models: list[Model], options: Mapping[str, Any], client: Client) -> tuple[Contestant, ...]:
    if not models:
        raise errors.ConfigError(
            "No model was given.", hint='bench.run(["openai/mini", "gemini/flash"], ...)'
        )
    contestants = tuple(_contestant(m, options, client) for m in models)
    names = [a.name for a in contestants]
    duplicate = next((n for n in names if names.count(n) > 1), None)
    if duplicate:
        raise errors.ConfigError(
            f"Two models have the name {duplicate!r}.",
            hint='Give one another name: {"model": ..., "name": "another label"}.',
        )
    return contestants


def _expand_batches(models: Sequence[Model], batch: int | Sequence[int] | None) -> Iterator[Model]:
    """Each model with each batch size."""
    for model in models:
        model_options = {"model": model} if isinstance(model, str) else dict(model)
        sizes = model_options.pop("batch", batch)
        size_list = list(sizes) if isinstance(sizes, Sequence) else [sizes]
        name = model_options.get("name", model_options.get("model"))
        for size in size_list:
            yield (
                model_options | ({"name": f"{name} x{size}"} if len(size_list) > 1 else {}) | {"batch": size}
            )


def _contestant(model_spec: Model, common: Mapping[str, Any], client: Client) -> Contestant:
    own_options = {"model": model_spec} if isinstance(model_spec, str) else dict(model_spec)
    model, name = own_options.pop("model", None), own_options.pop("name", None)
    options = {**common, **own_options}
    batch = options.pop("batch")
    excluded = ("failover", "hedge", "sample", "label")  # one model, and each answer anew
    allowed = tuple(o for o in (*REQUEST_OPTIONS, *ADDRESS_OPTIONS, *SENDING_OPTIONS) if o not in excluded)
    if batch is not None:
        allowed = ("extra", *ADDRESS_OPTIONS, "timeout", "retries", "dimensions", "purpose")
    if options.get("cache") in ("true", "refresh", True):
        raise errors.ConfigError(
            "A benchmark cannot use cached answers.", hint="Leave cache=true and cache=refresh out."
        )
    tokenizer = options.pop("tokenizer", None)
    counter = counting.token_counter(tokenizer) if "tokenizer" in own_options else tokenizer
    headers = check_headers(own_options.get("headers", {}), "headers" in common)
    options.pop("headers", None)
    unknown = next((o for o in options if o not in allowed), None)
    if batch is not None and counter is not None:
        unknown = "tokenizer"
    if not isinstance(model, str) or unknown:
        raise errors.ConfigError(
            f"{unknown!r} is not an option." if unknown else "A dict of a model's options needs `model`.",
            hint='{"model": "openai/mini", "name": "a label", "max_tokens": 100}'
            if not unknown
            else f"It applies to the whole run: bench.run(models, prompts, {unknown}=...)."
            if batch is None and unknown in run.__annotations__
            else errors.did_you_mean(OPTION_SYNONYMS.get(unknown, unknown), (*allowed, *run.__annotations__)),
        )
    address = [options.pop(option, None) for option in ADDRESS_OPTIONS]
    timeout, retries = options.pop("timeout", None), options.pop("retries", None)
    keep = bool(options.pop("keep", False))
    Timeouts.of(timeout)  # raises for invalid limits
    if batch is not None:
        own = {name: options.pop(name) for name in ("purpose", "dimensions") if name in options}
        options["extra"] = {**(options.get("extra") or {}), **vector_options(**own)}
    contestant = _resolve_contestant(client, model, address, headers, batch)
    more = {"timeout": timeout, "retries": int(retries or 0), "keep": keep, "counter": counter}
    return replace(contestant, name=name or model, options=options, **more)


def _resolve_contestant(
    client: Client,
    model: str,
    address: Sequence[str | None],
    headers: Mapping[str, str] | None = None,
    batch: int | None = None,
) -> Contestant:
    """The contestant of a model with its route and key, by this session's configuration."""
    if client.tapes.get_source() is not None:
        raise errors.ConfigError("A replay cannot be measured.", hint="End it: %llm replay off.")
    base_url, dialect, api_key = address
    if batch is not None:
        route, _ = embedder(client, model, base_url, dialect, batch)
    else:
        route = client.resolve(model, base_url, dialect)
    if route.fallbacks:
        raise errors.ConfigError(
            f"A benchmark measures one model at a time: {model}.",
            hint="Join the names by commas instead of |.",
        )
    route.check()
    key = client.registry.key_for(route, api_key)
    if key is None and not route.provider.local:
        raise missing_key_error(route.provider)
    row = client.registry.rows.get(route.provider.name, route.provider)
    if headers:
        row = replace(row, headers={**row.headers, **headers})
        route = replace(route, provider=add_headers(route.provider, headers))
    return Contestant(model, route, describe_provider(route, row, base_url), key=key, batch=batch)


# --- a run's file, which may come from somebody else ---


def _restore_contestant(
    stored: Mapping[str, Any], by_hand: Mapping[str, Mapping[str, Any]], client: Client
) -> Contestant:
    """The contestant that a run's file describes, looked up here. Raises ConfigError where its configuration
    differs."""
    name, requested, provider = str(stored["name"]), str(stored["asked"]), stored["provider"]
    options = prompts.load_options(stored["options"])
    Timeouts.of(stored["timeout"])
    try:
        model = f"{provider['name']}/{stored['model']}" if requested == "auto" else requested
        address = [by_hand[option].get(name) for option in ADDRESS_OPTIONS]
        contestant = _resolve_contestant(
            client, model, address, by_hand["headers"].get(name), stored.get("batch")
        )
    except errors.ConfigError as error:
        raise errors.ConfigError(
            f"{name!r} cannot be used as before: {error.message}",
            hint=f"{error.hint} {_address_hint(name, provider)}",
        ) from None
    counter = counting.token_counter(by_hand["tokenizer"].get(name))
    if stored.get("counted") and counter is None:
        raise errors.ConfigError(
            f"The run counts the tokens of {name!r} with a tokenizer.",
            hint="Give it again: bench.resume(run, tokenizer=...).",
        )
    changed = differences(stored, contestant)
    if changed:
        hint = f"Restore it, or start a new run with bench.run(...). {_address_hint(name, provider)}"
        raise errors.ConfigError(
            f"The configuration of {name!r} has changed: {'; '.join(changed)}.", hint=hint
        )
    return replace(
        contestant,
        name=name,
        route=replace(contestant.route, name=requested),
        options=options,
        timeout=stored["timeout"],
        retries=int(stored["retries"]),
        keep=bool(stored["keep"]),
        counter=counter if stored.get("counted") else None,
    )


def _address_hint(name: str, provider: Mapping[str, Any]) -> str:
    return (
        f"If its address was passed to the run and you trust it, pass it again: base_url={{{name!r}: "
        f"{str(provider.get('base_url', ''))!r}}}."
    )


def _reject_agent_options(job: Job) -> None:
    """Raises ConfigError where a run's file sets permissions or the working folder of an agent on this
    machine."""
    agents = [
        contestant
        for contestant in job.contestants
        if contestant.route.provider.command or contestant.route.provider.dialect == "opencode_server"
    ]
    for contestant in agents:
        if contestant.options.get("extra") or any(prompt.options.get("extra") for prompt in job.prompts):
            raise errors.ConfigError(
                f"A run's file may not set options of the command {contestant.route.provider.name!r}.",
                hint="Start a new run with bench.run(...).",
            )


def _check_names(by_hand: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    for option, values in by_hand.items():
        unknown = next((name for name in values if name not in names), None)
        if unknown is not None:
            raise errors.ConfigError(
                f"{option} is given for {unknown!r}, which is not a model of this run.",
                hint=f"Its models are {', '.join(map(repr, names))}.",
            )


def _trace_load(
    trace: Trace, load_options: tuple[Any, ...]
) -> tuple[list[prompts.Prompt], tuple[float, ...]]:
    if any(option is not None for option in load_options):
        raise errors.ConfigError(
            "A trace has its own times.",
            hint="Leave concurrency, rate, arrivals and per_turn out; bench.trace(path, speed=2).",
        )
    return list(trace.prompts), trace.times


def _start_kinds(value: Sequence[str]) -> tuple[str, ...]:
    kinds = (value,) if isinstance(value, str) else tuple(value)
    unknown = next((k for k in kinds if k not in columns.START_KINDS), None)
    if unknown:
        raise errors.ConfigError(
            f"{unknown!r} is not a start kind.", hint=f"Use {', '.join(columns.START_KINDS)}."
        )
    return kinds


def _drop_impossible_turns(
    turns: tuple[plan.Turn, ...], contestants: tuple[Contestant, ...], client: Client, *, strict: bool
) -> tuple[plan.Turn, ...]:
    """The turns without those that a model cannot do: a command has no connection or client, and not every
    model can be unloaded."""
    turns = tuple(
        t
        for t in turns
        if not (
            contestants[t.contestant].route.provider.command and t.start_kind in ("cold_client", "cold_conn")
        )
    )
    not_unloadable = {
        i
        for i, contestant in enumerate(contestants)
        if not can_unload(client, contestant.route) or contestant.route.simulated
    }
    if strict and any(t.start_kind == "cold_model" and t.contestant in not_unloadable for t in turns):
        raise errors.ConfigError(
            "cold_model needs a model that can be unloaded: one of Ollama's, or a local file.",
            hint="Leave cold_model out for the others.",
        )
    return tuple(t for t in turns if not (t.start_kind == "cold_model" and t.contestant in not_unloadable))


def _check_requests(job: Job, client: Client) -> None:
    """Raises ConfigError, before anything is sent or costs money, where a model's address is invalid, or its
    format does not support a prompt."""
    for contestant in job.contestants:
        if contestant.batch and not all(map(_is_single_text, job.prompts)):
            raise errors.ConfigError(
                f"{contestant.name!r} embeds texts: each prompt must be a single text.",
                hint="Leave out system, images, turns and options of calls.",
            )
        try:
            if not contestant.route.provider.command:
                addresses.parse(contestant.route.provider.base_url)
            for prompt in _one_of_each_kind(job.prompts):
                request = client.request(
                    prompt.turns[0], contestant.route.model, **{**contestant.options, **prompt.options}
                )
                client.encode(request, contestant.route, contestant.key, keep=contestant.keep)
        except errors.ConfigError as error:
            raise errors.ConfigError(
                f"{contestant.name!r} cannot be used: {error.message}", hint=error.hint or "Leave it out."
            ) from None


def _is_single_text(prompt: prompts.Prompt) -> bool:
    """Whether a prompt is a single text and nothing else."""
    messages = [message for turn in prompt.turns for message in turn]
    return (
        len(messages) == 1
        and not prompt.options
        and messages[0].role == "user"
        and [type(part) for part in messages[0].parts] == [Text]
    )


def _one_of_each_kind(prompt_list: Sequence[prompts.Prompt]) -> list[prompts.Prompt]:
    """One prompt for each combination of options and kinds of parts."""
    return list(
        {
            (repr(p.options), *sorted({type(part).__name__ for m in p.turns[0] for part in m.parts})): p
            for p in prompt_list
        }.values()
    )


def _is_whole_number(value: Any, least: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_seconds_range(value: Any) -> bool:
    """Whether it is seconds, or a pair of them (from, to)."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    return len(pair) == 2 and all(map(_is_seconds, pair)) and bool(pair[0] <= pair[1])


def _check_options(**options: Any) -> None:
    """Raises ConfigError for an option with an invalid value."""
    for option, (is_valid, message, hint) in _OPTION_CHECKS.items():
        if not is_valid(value := options[option]):
            raise errors.ConfigError(f"{message} {value!r}.", hint=hint)


# For each option: whether a value is valid; the message, before the value, if not; the hint.
_OPTION_CHECKS: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "models": (
        lambda v: all(isinstance(m, (str, Mapping)) for m in v),
        "models must be names or dicts of options, not",
        'bench.run(["openai/mini", {"model": "gemini/flash", "name": "flash"}], ...)',
    ),
    "cooldown": (
        lambda v: _is_whole_number(v, 0),
        "cooldown must be a number of requests, not",
        "cooldown=5",
    ),
    "idle": (
        lambda v: isinstance(v, Collection) and len(v) > 0 and all(map(_is_seconds, v)),
        "idle must be a list of pauses in seconds, not",
        "idle=[0, 30, 300]",
    ),
    "cold": (
        lambda v: isinstance(v, (bool, str)) or (isinstance(v, Collection) and len(v) > 0),
        "cold must be True, False or a list of start kinds, not",
        f"cold=True, or a list of {', '.join(columns.START_KINDS)}.",
    ),
    "seed": (
        lambda v: v is None or _is_whole_number(v, -math.inf),
        "seed must be a whole number, not",
        "seed=7",
    ),
    "stop_when": (
        lambda v: v is None or (_is_seconds(v) and v > 0),
        "stop_when must be a relative half width above 0, not",
        "stop_when=0.05 is 5 %.",
    ),
    "keep_answers": (
        lambda v: isinstance(v, bool),
        "keep_answers must be True or False, not",
        "keep_answers=False",
    ),
    "disturb": (
        lambda v: v is None or _is_seconds_range(v),
        "disturb must be a pair of milliseconds, not",
        "See bench.selftest.",
    ),
    "directory": (
        lambda v: v is None or isinstance(v, (str, os.PathLike)),
        "directory must be a path, not",
        'directory="runs/monday"',
    ),
    "retries": (
        lambda v: v is None or _is_whole_number(v, 0),
        "retries must be a whole number, not",
        "retries=2",
    ),
    "warmup": (
        lambda v: v == "auto" or _is_whole_number(v, 0),
        'warmup must be "auto" or a number, not',
        'Use warmup="auto", or a number of requests.',
    ),
    "prefix": (
        lambda v: v in (None, "unique", "shared"),
        "prefix cannot be",
        'prefix="unique" defeats prompt caches, prefix="shared" measures them.',
    ),
    "metric": (
        lambda v: any(c.name == v and c.dtype == "float64" for c in columns.COLUMNS),
        "metric cannot be",
        "bench.schema() lists the columns; ttft_ms, e2e_ms and itl_ms are usual.",
    ),
    "max_errors": (
        lambda v: v is None or _is_whole_number(v, 1),
        "max_errors must be a number of failures, not",
        "max_errors=10, or None.",
    ),
    "think": (
        lambda v: v is None or _is_seconds_range(v),
        "think must be seconds or a pair of them, not",
        "think=5 seconds, or think=(2, 8).",
    ),
}


def _check_prices(contestants: Sequence[Contestant], budget: plan.Budget) -> None:
    """Raises ConfigError where a budget in dollars cannot be enforced, since the price of a model is
    unknown."""
    for contestant in contestants if budget.usd is not None else ():
        row = contestant.route.provider
        is_free = row.command or contestant.route.simulated or addresses.parse(row.base_url).is_local
        price = prices.facts(contestant.route.model, row)
        if not is_free and (price.input if contestant.batch else price.output) is None:
            raise errors.ConfigError(
                f"A budget in dollars is not possible with {contestant.name!r}: its price is not known.",
                hint='Set its price in the configuration, or use budget={"tokens": ..., "requests": ...}.',
            )


def _has_job(path: Path) -> bool:
    """Whether the directory has a run with a job; a run that was killed before storing it has not started."""
    if not (path / FILE).exists():
        return False
    with Store(path) as store:
        return store.get("job") is not None


def _budget_limits(budget: plan.Budget) -> dict[str, float]:
    return {k: v for k in ("usd", "tokens", "seconds", "requests") if (v := getattr(budget, k)) is not None}


def _run_metadata(job: Job, blocks: int) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": [a.name for a in job.contestants],
        "prompts": len(job.prompts),
        "blocks": blocks,
        "seed": job.rules.seed,
        "prefix": job.rules.prefix,
        "planned": sum(len(t.slots) for t in job.turns),
        "nbllm": version("nbllm"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _run_directory(run: str | os.PathLike[str] | pd.DataFrame) -> Path:
    metadata = getattr(run, "attrs", {}).get("nbllm", {})
    name = run if isinstance(run, (str, os.PathLike)) else metadata.get("directory", type(run).__name__)
    path = Path(name) if (Path(name) / FILE).exists() else find_run(str(name))
    if path is None:
        raise errors.ConfigError(
            f"There is no benchmark run {str(name)!r}.",
            hint="bench.runs() lists the runs of this machine.",
        )
    return path

"""Runs a `%%llm` cell: fills the prompt, sends it, displays and stores the answer."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..core import schema_shorthand
from ..core.errors import ConfigError, NbllmError, error_line, processing_answer
from ..core.events import Response
from ..core.messages import Part, Text
from ..core.schema import Shape
from ..core.strict import check_strict
from ..core.template import FilledPrompt, fill
from ..routing.registry import DEFAULT_MODEL, Route
from . import background, dry_run, fix, prompt_files
from .actions import get_actions
from .assertions import resolve_asserts
from .comparison import Comparison
from .functions import define_function
from .painters import choose_painter
from .prompt.attachments import describe_part, load_attachment, value_part
from .question import Question, resolve_options, value_budget
from .run import GuardedPainter, Run, append_turn, follow, join_chat, stop_on_interrupt, store_results
from .session import Session, Stopped
from .syntax.parser import CellLine
from .syntax.placeholders import reject_placeholders
from .view.outcome import Outcome, Painter

# A class or a type expression: list[City] | None, models.City. Names only, no calls.
_TYPE_EXPRESSION = re.compile(r"[A-Z]\w*|(?=.*[\[.|])[^\W\d][\w.\[\]|,\"' ]*")


def _check_mode(route: Route, options: Mapping[str, Any]) -> None:
    if options["mode"] in ("query", "execute"):
        from ..agents.protocols import check_mode

        check_mode(route.provider, str(options["mode"]), simulated=route.simulated)


def _check_strict(route: Route, options: Mapping[str, Any]) -> None:
    for each in (route, *route.fallbacks) if "schema" in options else ():
        check_strict(options["strict"], options["schema"], each.provider)


_CHECKS = {"mode": _check_mode, "strict": _check_strict}


def _check_supported(session: Session, line: CellLine, options: Mapping[str, Any]) -> None:
    """Raises ConfigError, with the column, if a model does not support mode= or strict=, or if tools= or
    approve= names something unknown."""
    for name in _CHECKS.keys() & line.options.keys():
        for model in selected_models(line.models, options):
            route = session.client.resolve(model, options.get("base_url"), options.get("dialect"))
            with line.locate_errors(name):
                _CHECKS[name](route, line.options)
    for name in ("tools", "approve"):
        if name in line.options:
            with line.locate_errors(name):
                session.resolve_tools({name: options[name]})


def run_cell(session: Session, line: CellLine, body: str) -> Any:
    """Runs the cell and returns the response (with each=, the first rows); shows the answer while it arrives.

    Raises ConfigError for errors found before sending, the call's error after the partial answer was shown
    and stored, Stopped if the user stopped it.
    """
    with session.client.span("cell", chat=line.options.get("chat")):
        return _run_cell(session, line, body)


def _run_cell(session: Session, line: CellLine, body: str) -> Any:
    reject_placeholders(line, session.namespace)
    line = replace(line, models=session.expand_models(line.models))
    used = prompt_files.used_prompts(session, str(line.options.get("use", "")))
    options = dict(session.defaults)
    for prompt in used:
        options |= prompt.options
    if used and not line.options.keys() & {"save", "label"}:
        options["label"] = prompt_files.version_label(used)
    options = resolve_schema(session, resolve_asserts(session.namespace, resolve_options(line, options)))
    _check_supported(session, line, options)
    if used:
        mode = "single" if "each" in options else str(options.get("fill", "on"))
        body = prompt_files.join_prompts(session, used, body, mode, any_name="def" in options)
    if options.get("save"):
        return _save_prompt(session, str(options["save"]), body)
    if options.get("def"):
        function = define_function(
            session, str(options["def"]), body, options, _make_caller(session, line, options)
        )
        session.print_text(
            f"{function.__name__}{inspect.signature(function)} is defined; it asks "
            f"{', '.join(selected_models(line.models, options))}."
        )
        return None
    if options.get("each"):
        from . import rows

        row_question = build_question(session, line.models, options, line.extra, FilledPrompt(()))
        return rows.run(session, line, row_question, body.strip("\n"))
    filled = fill(
        body,
        session.prompt_variables,
        session.evaluate,
        str(options.get("fill", "on")),
        value_budget(options),
    )
    if not filled.text.strip():
        raise ConfigError(
            "The prompt is empty.", hint="Write what the model should answer below the %%llm line."
        )
    return run_question(session, build_question(session, line.models, options, line.extra, filled), line.out)


def _save_prompt(session: Session, name: str, body: str) -> None:
    """Stores a cell's text as a prompt, in this session or in the project's folder."""
    folder, _, prompt_name = name.rpartition("/")
    if folder:
        prompt = prompt_files.write_prompt(prompt_name, body)
        session.fragments.pop(prompt_name, None)  # the file replaces it
        session.print_text(
            f"{prompt_files.version_label([prompt])} is saved in {name}.md. "
            f"%%llm use={prompt_name} puts it before a prompt."
        )
    else:
        session.fragments[name] = body
        session.print_text(f"{name} is saved. %%llm use={name} puts it before a prompt.")


def run_question(
    session: Session, question: Question, out: str | None = None, before: Sequence[Outcome] = ()
) -> Response | Comparison | None:
    """Sends the question, in the background if it says so, and shows the answers beside those of `before`."""
    question, append = join_chat(session, question)
    if question.options.get("dry_run"):
        dry_run.show_dry_run(session, question)
        return None
    run = Run.of(question, session.send)
    if background.runs_in_background(session, run) and not before:
        background.start_background(session, run, out, append)
        return None
    guarded = GuardedPainter(
        choose_painter(session, run, before)
    )  # before the call, so that first imports do not count in its times
    run.begin()
    problem: NbllmError | None = None
    with session.foreground_answer(), stop_on_interrupt(run):
        try:
            guarded.start()
            follow(run, guarded)
        except KeyboardInterrupt:  # outside the main thread, or pressed twice
            run.cancel(wait=1.0)
        # also SystemExit, as a validator may raise: the answer is stored, the error is one line
        except BaseException as error:  # noqa: BLE001
            run.cancel()
            run.fail(error)
            run.stopped = False  # not stopped by the user
        result = store_results(session, run, out, before=before)
        try:
            problem = append_turn(run, append)
            problem = guarded.finish(run.settled_outcomes()) or problem
        except KeyboardInterrupt:  # pressed twice after the answer: it stays stored
            run.stopped = True
    session.mark_drawn(result)
    if run.actions_id and problem is None:
        get_actions(session).offer(run, out)
    if run.stopped:
        raise Stopped(
            out or "_llm",
            is_complete=all(
                o.response.finish_reason not in (None, "cancelled") for o in run.settled_outcomes()
            ),
        )
    if (failed := run.error or problem) is not None:
        raise failed
    if question.format == "code" and isinstance(result, Response):
        with processing_answer(result, "offering it as a cell"):
            fix.offer_code(session, result)
    return result


# --- the question ---


def selected_models(models: Sequence[str], options: Mapping[str, Any]) -> tuple[str, ...]:
    """The models of the line, or the notebook's default model."""
    return tuple(models) or (str(options.get("model", DEFAULT_MODEL)),)


def build_question(
    session: Session,
    models: Sequence[str],
    options: Mapping[str, Any],
    extra: Mapping[str, Any],
    filled: FilledPrompt,
) -> Question:
    """The question for a filled prompt."""
    parts, attached = build_parts(session, filled, options)
    call_options = {k: v for k, v in options.items() if k != "model"}
    return Question(
        parts,
        selected_models(models, options),
        call_options,
        extra,
        filled.labels,
        attached,
        unfilled=filled.skipped_summary,
    )


def _make_caller(
    session: Session, line: CellLine, options: Mapping[str, Any]
) -> Callable[[FilledPrompt], Any]:
    """The function that def= calls with a filled prompt: sends it without display, returns the result or
    raises the call's error."""

    def call(filled: FilledPrompt) -> Any:
        resolved, append = join_chat(
            session, build_question(session, line.models, options, line.extra, filled)
        )
        run = Run.of(resolved, session.send).begin()
        try:
            follow(run, Painter())
            if run.error is not None:
                raise run.error
        except BaseException:  # also an interrupt: the partial answer becomes the last one
            run.cancel()
            if any(not o.response.empty for o in run.settled_outcomes()):
                store_results(session, run)
            raise
        append_turn(run, append)
        result = run.result()
        return run.settled_outcomes()[0].result_value if isinstance(result, Response) else result

    return call


def build_parts(
    session: Session, filled: FilledPrompt, options: Mapping[str, Any]
) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """(parts of the prompt, descriptions of the attachments for the footer)."""
    parts: list[Part] = []
    for piece in filled.pieces:
        part = value_part(piece.source, piece.value) if not isinstance(piece, str) and piece.plain else None
        if part is not None and not isinstance(part, Text):
            parts.append(part)
        else:
            text = part.text if part is not None else piece if isinstance(piece, str) else piece.text
            parts.append(Text((parts.pop().text if parts and isinstance(parts[-1], Text) else "") + text))  # type: ignore[union-attr]
    if parts and isinstance(parts[-1], Text):
        parts[-1] = Text(parts[-1].text.rstrip("\n"))  # the final line end of a cell is not the user's
    if parts and isinstance(parts[0], Text):
        parts[0] = Text(parts[0].text.lstrip("\n"))
    references = options.get("attach", ())
    attachments = [
        (what, part) for what in references for part in _attachment_parts(session, what, filled.budget)
    ]
    return (*parts, *(part for _, part in attachments)), tuple(
        describe_part(what, part, filled.budget) for what, part in attachments
    )


def _attachment_parts(session: Session, reference: str, budget: int) -> Sequence[Part]:
    """The parts for one value of attach=: an MCP resource, a file, a URL or a variable."""
    if reference.startswith("mcp://"):
        return session.client.run(session.client.mcp.resource(reference, budget))
    return (load_attachment(reference, session.namespace, budget),)


def resolve_schema(session: Session, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with schema= resolved: JSON, the name of a variable or type, or the short form."""
    text = options.get("schema")
    if text is None:
        return dict(options)
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"schema= is not valid JSON: {error}.",
                hint='The short form needs none: schema="name, age int".',
            ) from None
        return {**options, "schema": Shape.of(value)}
    value = session.namespace.get(text, "")
    try:
        with suppress(SyntaxError):  # the short form may contain list[...] too
            value = session.evaluate(text) if _TYPE_EXPRESSION.fullmatch(text) else value
    except Exception as error:  # noqa: BLE001 - evaluating a user's expression can raise anything
        raise ConfigError(
            f"schema= is not a type: {error_line(error)}.",
            hint=f'Run the cell that defines it; a field of that name is schema="{text} str".',
        ) from None
    return {**options, "schema": Shape.of(schema_shorthand.schema(text) if isinstance(value, str) else value)}

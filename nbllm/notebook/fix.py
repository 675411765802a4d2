"""`%llm fix` and `%llm insert`: the last error explained and mended, code into the next cell. Nothing is ever
run by itself."""

from __future__ import annotations

from ..core.errors import ConfigError
from ..core.events import Response
from ..core.messages import Text
from ..core.values import plural
from ..tools.changes import diff_lines
from .session import Session
from .view.frontend import output_mode
from .view.hidden import clean, clean_and_count
from .view.markdown import code_html, fences
from .view.static import Rendered, extract_code, join_rendered, render_note, to_bundle

_PROMPT = """This cell of a Jupyter notebook failed.

```python
{code}
```

It raised:

```
{error}
```

Say in one or two sentences why. Then give the whole cell, corrected, in one ```python fence. Change no more than is needed."""  # noqa: E501


def build_fix_prompt(session: Session) -> tuple[Text, str]:
    """(what asks why the last cell failed, that cell). Raises ConfigError where none has."""
    failure = session.last_failure
    if failure is None:
        raise ConfigError("No cell has failed yet.", hint="Run the cell that fails, then %llm fix.")
    return Text(_PROMPT.format(code=failure.code.strip(), error=failure.error)), failure.code


def propose_fix(session: Session, code: str, answer: str) -> None:
    """Shows what an answer would change in `code`, and puts the corrected cell below, unrun."""
    proposed = longest_code_block(answer)
    if proposed is not None:
        warning = put_in_next_cell(session, proposed)
        session.show_bundle(
            to_bundle(
                join_rendered(
                    [_rendered_diff(code, clean(proposed)), *([render_note(warning)] if warning else [])]
                )
            )
        )


def longest_code_block(text: str) -> str | None:
    """The longest fence of an answer, None where it has none."""
    found = [body for _, body in fences(text) if body.strip()]
    return max(found, key=len).strip("\n") if found else None


def put_in_next_cell(session: Session, code: str) -> str:
    """Puts code or a prompt into the next cell, unrun, with what hides in it made visible; a warning where
    anything does."""
    shown, hidden_count = clean_and_count(code.replace("\r\n", "\n").replace("\r", "\n"))
    session.shell.set_next_input(shown, replace=False)
    return (
        f"⚠ {plural(hidden_count, 'hidden character')} in this cell: shown as ⟨U+...⟩, and to be "
        f"removed before it is run."
        if hidden_count
        else ""
    )


def _rendered_diff(before: str, after: str) -> Rendered:
    text = "\n".join(
        diff_lines(clean(before).strip().splitlines(), after.strip().splitlines(), "your cell", "proposed")
    )
    return (
        Rendered(code_html(text, "diff"), text)
        if text
        else render_note("The proposed cell is the same as yours.")
    )


def offer_code(session: Session, response: Response) -> None:
    """Puts an answer that was asked for as code into the next cell, where a front end can do that; a cell
    that is run again with the same result does not do it again."""
    code = _all_code(response.text)
    if (
        code
        and output_mode(session.shell) == "live"
        and session.offered_code.get(session.origin.cell) != code
    ):
        session.offered_code[session.origin.cell] = code
        if warning := put_in_next_cell(session, code):
            session.show_bundle(to_bundle(render_note(warning)))


def _all_code(text: str) -> str:
    """What an answer holds that was asked for as code: its fences, as they are shown, or all of it."""
    return extract_code(text)[1].strip("\n")


def insert(session: Session, _rest: str) -> str:
    """Puts the code of the last answer into the next cell."""
    if session.last_response is None:
        raise ConfigError("There is no answer yet.", hint="Ask in a %%llm cell first.")
    asked_for = session.last_question is not None and session.last_question.format == "code"
    code = (
        _all_code(session.last_response.text) if asked_for else longest_code_block(session.last_response.text)
    )
    if not code:
        raise ConfigError("The last answer holds no code.", hint="Code stands between ``` fences.")
    return "\n".join(
        filter(None, ("The code is in the next cell; it has not been run.", put_in_next_cell(session, code)))
    )

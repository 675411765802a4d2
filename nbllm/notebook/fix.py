"""`%llm fix` and `%llm insert`: explains the last error, and puts code into the next cell. Nothing is run
automatically."""

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
    """(the prompt about the last failed cell, its source). Raises ConfigError if no cell has failed."""
    failure = session.last_failure
    if failure is None:
        raise ConfigError("No cell has failed yet.", hint="Run the cell that fails, then %llm fix.")
    return Text(_PROMPT.format(code=failure.code.strip(), error=failure.error)), failure.code


def propose_fix(session: Session, code: str, answer: str) -> None:
    """Shows the difference between `code` and the corrected cell of an answer, and puts that into the next
    cell, unrun."""
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
    """The longest code block of an answer, None if it has none."""
    found = [body for _, body in fences(text) if body.strip()]
    return max(found, key=len).strip("\n") if found else None


def put_in_next_cell(session: Session, code: str) -> str:
    """Puts code or a prompt into the next cell, unrun, with hidden characters made visible; returns a warning
    if there are any."""
    shown, hidden_count = clean_and_count(code.replace("\r\n", "\n").replace("\r", "\n"))
    session.shell.set_next_input(shown, replace=False)
    return (
        f"⚠ {plural(hidden_count, 'hidden character')} in this cell: shown as ⟨U+...⟩. Remove "
        "them before you run the cell."
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
    """Puts an answer with format=code into the next cell, if the front end supports that; not again when the
    cell is run again with the same result."""
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
    """The code of an answer with format=code: all its code blocks, or its text."""
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
        raise ConfigError("The last answer holds no code.", hint="Code is recognised between ``` fences.")
    return "\n".join(
        filter(None, ("The code is in the next cell; it has not been run.", put_in_next_cell(session, code)))
    )

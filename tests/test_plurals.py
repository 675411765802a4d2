"""Counts are followed by the right form of their noun: "1 row", "2 rows"."""

import ast
import re
from pathlib import Path

import pytest

import nbllm
from nbllm.core.values import plural

NOUNS = """rows|turns|tokens|requests|calls|files|models|tools|lines|characters|bytes|blocks|items|values
    |columns|events|answers|chunks|runs|attempts|times|keys|messages|kernels|records|cells|prompts|pairs|texts|entries
    |variables|steps|parts|results|failures|retries|vectors|comparisons|contestants|words"""
TOLD = re.compile(rf"\ (?:(?:more|other|earlier|measured|input|output)\ )?(?:{NOUNS})\b", re.VERBOSE)
# Where the noun is a verb, or the number is never one: what stands before it.
OTHERWISE = """
    rows; requested; needed
    where; full; place.suffix; source.suffix; wanted; retries[1]; b.tokens; found; counted
    len(matches); LEAST; least; len(asked); len(combinations); 2 * n_asked; len(df); len(names); number
    prompt.size; tokens; size; cost; limit; before; context.size; budget
    len(data); len(source); len(text); len(text) - 2 * half; len(value); len(name); len(raw[key])
    self._size; len(data or b''); f' of {self.budget:,}' if find_formatter(piece.value) else ''
"""
FILES = list(Path(nbllm.__file__).parent.rglob("*.py"))


def told_in(tree):
    """Each value of an f-string that a plural follows, as it is written."""
    for string in (n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)):
        for value, text in zip(string.values, string.values[1:], strict=False):
            pair = isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)
            if pair and TOLD.match(text.value):
                yield ast.unparse(value.value)


@pytest.mark.slow
def test_no_plural_stands_behind_a_count_that_may_be_one():
    """`plural` says it."""
    found = {value for path in FILES for value in told_in(ast.parse(path.read_text()))}
    assert set() == {v for v in found if not v.isupper()} - set(re.split(r"\s*[;\n]\s*", OTHERWISE))


@pytest.mark.parametrize(("number", "words"), [(0, "0 rows"), (1, "1 row"), (None, "? rows")])
def test_plural(number, words):
    """One is one."""
    assert words == plural(number, "row")

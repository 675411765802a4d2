"""Words in stored prompts and answers, found by SQLite's full-text search (FTS5).

The index is made in memory for each search, of the rows that are searched: so nothing of it is on disk or
grows old, and a row that another kernel has just written is found. A query is words, whatever characters they
are made of, and never FTS5's language: a row is found where it has them all, each as a word or as the
beginning of one. In scripts without word spaces, and of emoji, each character is a word, and a query's word a
run of them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence

from ..core.errors import ConfigError
from .chunks import Row

_UNSPACED = (  # and pictures
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\u2600-\u27bf\U0001f300-\U0001faff]"
)
_MANY = 50  # words of a query that count
_TOKENS = "unicode61 remove_diacritics 2 categories ''L* N* Co So''"
_TABLE = f"create virtual table texts using fts5(words, tokenize = '{_TOKENS}')"
_FIND = (
    "select rowid, snippet(texts, 0, '[', ']', '...', 16) from texts where texts match ? "
    "order by rank, rowid desc limit ?"
)


def search(rows: Sequence[Row], words: Iterable[str], most: int) -> list[tuple[Row, str]]:
    """The rows whose prompt and answer have all the words, the best first and at most so many, each with the
    words in their place. Raises ConfigError where this Python's SQLite has no full-text search."""
    import sqlite3

    query = " ".join(f'"{spaced}" *' for word in [*words][:_MANY] if (spaced := _spaced(word).strip()))
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute(_TABLE)
        except sqlite3.OperationalError:
            raise ConfigError(
                "This Python's SQLite has no full-text search (FTS5).",
                hint="%llm log has the texts as columns; search them with pandas.",
            ) from None
        db.executemany("insert into texts (rowid, words) values (?, ?)", _indexed(rows))
        found = db.execute(_FIND, (query or '""', most)).fetchall()
    return [(rows[place], _joined(snippet)) for place, snippet in found]


def _indexed(rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    for place, row in enumerate(rows):
        if row.get("prompt") or row.get("answer"):
            yield place, _spaced(f"{_asked(row.get('prompt'))}\n{row.get('answer') or ''}")


def _asked(prompt: str | None) -> str:
    """The words of a stored prompt."""
    try:
        return "\n".join(str(message["text"]) for message in json.loads(prompt or "[]"))
    except (ValueError, TypeError, KeyError, RecursionError):  # not as we write it
        return str(prompt)


def _spaced(text: str) -> str:
    """As it is indexed: no character that SQLite cannot keep or that ends a query's word."""
    plain = text.replace("\0", " ").replace('"', " ").encode("utf-8", "replace").decode()
    return re.sub(_UNSPACED, r" \g<0> ", plain)


def _joined(snippet: str) -> str:
    return " ".join(re.sub(rf"(?<={_UNSPACED}) {{1,2}}|(?<! ) (?={_UNSPACED})", "", snippet).split())

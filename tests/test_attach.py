"""Files, addresses and variables as parts of a message."""

import pytest

from nbllm.errors import ConfigError
from nbllm.messages import Document, Image, Text
from nbllm.notebook.attach import attached

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8


class Picture:
    """Something that draws itself, as PIL images and figures do."""

    def _repr_png_(self):
        return PNG


@pytest.mark.parametrize(("name", "data", "expected"), [
    ("a.png", PNG, Image(PNG)),
    ("a.jpg", b"x", Image(b"x", media_type="image/jpeg")),
    ("a.pdf", b"%PDF-1", Document(b"%PDF-1", name="a.pdf")),
    ("a.csv", b"x,y\n1,2\n", Text("\n\na.csv:\n```\nx,y\n1,2\n\n```\n")),
    ("a.py", b"pass", Text("\n\na.py:\n```\npass\n```\n")),
    ("noend", "grüße".encode(), Text("\n\nnoend:\n```\ngrüße\n```\n")),
])
def test_files_by_type(tmp_path, name, data, expected):
    """Pictures and PDFs as they are, text as text under its name."""
    (tmp_path / name).write_bytes(data)
    assert expected == attached(str(tmp_path / name), {})


@pytest.mark.parametrize(("value", "expected"), [
    (PNG, Image(PNG)), (Picture(), Image(PNG)), ("some text", Text("\n\nv:\n```\nsome text\n```\n")), (Image(url="https://h/a.png"), Image(url="https://h/a.png")),
])
def test_variables_by_what_they_are(value, expected):
    """Bytes, pictures, text and parts."""
    assert expected == attached("v", {"v": value})


def test_addresses():
    """Pictures and documents are fetched by the provider."""
    assert Image(url="https://h/a.jpg", media_type="image/jpeg") == attached("https://h/a.jpg", {})
    assert Document(url="https://h/a.pdf?x=1") == attached("https://h/a.pdf?x=1", {})


def test_what_cannot_be_attached_says_so(tmp_path):
    """Nothing there, a type no model reads, a value of no form."""
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04\0\0")
    for what, words in (("nope.txt", "no file"), (str(tmp_path / "a.zip"), "do not read"), ("v", "cannot be attached")):
        with pytest.raises(ConfigError, match=words):
            attached(what, {"v": object()})


def test_a_data_url_is_taken_apart():
    """Not every provider reads data: as an address."""
    assert Image(b"x", media_type="image/gif") == Image(url="data:image/gif;base64,eA==")

"""Files, addresses and variables as parts of a message."""

import pytest

from nbllm.core.errors import ConfigError
from nbllm.core.messages import Document, Image, Text
from nbllm.notebook.prompt.attachments import load_attachment, value_part

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8


class Picture:
    """Something that draws itself, as PIL images and figures do."""

    def _repr_png_(self):
        return PNG


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.png", PNG, Image(PNG)),
        ("a.jpg", b"\xff\xd8\xffx", Image(b"\xff\xd8\xffx", media_type="image/jpeg")),
        ("a.pdf", b"%PDF-1", Document(b"%PDF-1", name="a.pdf")),
        ("a.csv", b"x,y\n1,2\n", Text("\n\na.csv:\n```\nx,y\n1,2\n\n```\n")),
        ("a.py", b"pass", Text("\n\na.py:\n```\npass\n```\n")),
        ("noend", "grüße".encode(), Text("\n\nnoend:\n```\ngrüße\n```\n")),
    ],
)
def test_files_by_type(tmp_path, name, data, expected):
    """Pictures and PDFs as they are, text as text under its name."""
    (tmp_path / name).write_bytes(data)
    assert expected == load_attachment(str(tmp_path / name), {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (PNG, Image(PNG)),
        (Picture(), Image(PNG)),
        ("some text", Text("\n\nv:\n```\nsome text\n```\n")),
        (Image(url="https://h/a.png"), Image(url="https://h/a.png")),
    ],
)
def test_variables_by_what_they_are(value, expected):
    """Bytes, pictures, text and parts."""
    assert expected == load_attachment("v", {"v": value})


def test_addresses():
    """Pictures and documents are fetched by the provider."""
    assert Image(url="https://h/a.jpg", media_type="image/jpeg") == load_attachment("https://h/a.jpg", {})
    assert Document(url="https://h/a.pdf?x=1") == load_attachment("https://h/a.pdf?x=1", {})


def test_what_cannot_be_attached_says_so(tmp_path):
    """Nothing there, a type no model reads, a value of no form."""
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04\0\0")
    for what, words in (
        ("nope.txt", "not a file"),
        (str(tmp_path / "a.zip"), "do not read"),
        ("v", "cannot be attached"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_attachment(what, {"v": object()})


def test_a_data_url_is_taken_apart():
    """Not every provider reads data: as an address."""
    assert Image(b"x", media_type="image/gif") == Image(url="data:image/gif;base64,eA==")


def figure():
    import matplotlib.figure

    made = matplotlib.figure.Figure()
    made.subplots().plot([1, 2, 3])
    return made


def ipythons_own():
    from IPython.display import Image as Shown

    return Shown(data=PNG, format="png")


DRAWN = [pytest.param(make, marks=pytest.mark.slow) for make in (figure, lambda: figure().axes[0])]


@pytest.mark.parametrize("make", [*DRAWN, Picture, ipythons_own])
def test_what_draws_itself_is_a_picture_at_its_place(make):
    """A figure, axes of one, whatever gives PNG."""
    part = value_part("fig", make())
    assert isinstance(part, Image)
    assert part.data.startswith(b"\x89PNG")
    assert (
        part == load_attachment("fig", {"fig": make()})
        or part.data[:4] == load_attachment("fig", {"fig": make()}).data[:4]
    )


def test_a_path_is_its_file_and_text_stays_text(tmp_path):
    """A folder, or a path to nothing, is no file."""
    (tmp_path / "notes.md").write_text("# Notes")
    assert Text("\n\nnotes.md:\n```\n# Notes\n```\n") == value_part("path", tmp_path / "notes.md")
    assert value_part("path", tmp_path) is None
    assert value_part("path", tmp_path / "nope") is None
    assert value_part("path", str(tmp_path / "notes.md")) is None


def test_a_large_table_s_file_is_a_sample(tmp_path):
    """Of CSV and Parquet; a small one goes along whole; a broken one is an error that says what to do."""
    import pandas as pd

    df = pd.DataFrame({"n": range(5_000), "word": "w"})
    df.to_csv(tmp_path / "a.csv", index=False)
    df.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        text = value_part("path", tmp_path / name).text
        assert f"{name}:\nA table of 5,000 rows and 2 columns." in text
        assert "| n | int64 | 0 | 0 to 4,999, mean 2500 |" in text
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"b\.parquet cannot be read as a table"):
        value_part("path", tmp_path / "b.parquet")


def test_a_table_can_be_attached():
    """As its sample, under its name."""
    import pandas as pd

    assert load_attachment("df", {"df": pd.DataFrame({"a": [1]})}).text.startswith(
        "\n\ndf: A table of 1 row and 1 column."
    )

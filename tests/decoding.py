"""What the tests of decoders share: chunks in, events or a response out."""

import json

from nbllm.core.calls import Frame
from nbllm.core.codec import Encodable, check_version, from_plain


def read(dialect, row, *chunks):
    """The events of a stream whose frames hold `chunks`: frames, text, or values written as JSON."""
    decoder = dialect.decoder(row)
    events = []
    for chunk in chunks:
        frame = (
            chunk
            if isinstance(chunk, Frame)
            else Frame(chunk if isinstance(chunk, str) else json.dumps(chunk))
        )
        events += decoder.feed(frame)
    return [*events, *decoder.close()]


def from_json(text, kind=Encodable):
    """The value in what `to_json` gave; what a file that holds such a text is read by."""
    found = json.loads(text)
    check_version(found.get("nbllm"))
    return from_plain(found.get("value"), kind)

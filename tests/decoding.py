"""What the tests of decoders share: chunks in, events or a response out."""

import json

from nbllm.core.calls import Frame


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

"""The shared data types: messages, events, errors, calls, options. Pure: no clock, file, socket or thread."""

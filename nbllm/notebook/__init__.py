"""Where people meet nbllm: magics, live display, safe rendering. IPython and ipywidgets are imported here
alone."""

"""The notebook front end: magics, live display, safe rendering. Only this subpackage imports IPython and
ipywidgets."""

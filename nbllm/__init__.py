"""nbllm: use and compare language models from a notebook."""

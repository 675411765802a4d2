"""The prompt of a cell: places to fill, and the notebook's values in a form that a model reads."""

"""The line of a cell magic: values, options and grammar."""

"""Attachments of a cell's prompt."""

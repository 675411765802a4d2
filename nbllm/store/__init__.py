"""What a call leaves behind: its row of numbers, in one table of columns."""

"""How answers are drawn: one AnswerState for each column, and painters that draw states where a front end can
show them."""

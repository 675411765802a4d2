"""Display of answers: one AnswerState for each column, and painters that draw the states in a front end."""

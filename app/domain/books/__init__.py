"""Money, prices, budgets and entries of the books: what is owed for a call, and what may still be spent."""

"""The supervised loop and what each objective asks of it."""

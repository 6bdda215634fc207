"""From files to batches: formats, template, mixing, collation."""

"""HTTP for operators, shared by broker and meta service. Knows no page: what is shown belongs to whoever shows it."""

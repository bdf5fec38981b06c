"""How cells become records: planned, made ready, shared among processes, carried out."""

"""Turn graphs into bytes and back, strictly both ways; no torch here."""

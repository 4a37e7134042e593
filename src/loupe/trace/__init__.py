"""Write graphs: proxies, the recorder, and the blocks that open and close it."""

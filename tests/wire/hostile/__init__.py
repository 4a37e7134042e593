"""Make files that have to be refused; importing this fills the table."""

from tests.wire.hostile import arguments, blocks, containers, documents, nodes, operations, texts
from tests.wire.hostile.table import HOSTILE

__all__ = ["HOSTILE", "arguments", "blocks", "containers", "documents", "nodes", "operations", "texts"]

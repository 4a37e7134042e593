"""Run the programs that public descriptions of this kind of tool show, with the bundled model in place of theirs."""

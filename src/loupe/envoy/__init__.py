"""Mirror a model's modules for blocks to be written against, and hand what a block wrote to a run."""

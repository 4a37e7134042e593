"""Hold the settings that a user may change for the whole process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Config:
    """Settings of the process; change an attribute and the next block follows it.

    >>> from loupe import CONFIG
    >>> CONFIG.version_stable_outputs = False

    version_stable_outputs: `.output[0]` of a decoder block means its hidden states `[batch, seq, hidden]`, whether the
    installed transformers returns them as a tensor or as the first entry of a tuple.
    """

    version_stable_outputs: bool = True


CONFIG = Config()

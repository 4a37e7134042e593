"""Tell Sphinx how the pages of loupe are built."""

from importlib.metadata import version as installed_version

project = "loupe"
author = "the loupe developers"
release = version = installed_version("loupe")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"

html_theme = "furo"
html_title = "loupe"

"""Sphinx configuration of the site. ``sphinx-build -W -b html docs docs/_build`` builds it; warnings are errors."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxiqa.core.version import __version__  # noqa: E402

project = "jaxiqa"
copyright = "the jaxiqa authors, Apache-2.0"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "api_pages",
    "docstrings",
    "outside_links",
]
exclude_patterns = ["_build", "_ext"]
html_theme = "sphinx_book_theme"
html_title = "jaxiqa"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "home_page_in_toc": False,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}  # light or dark as the reader's system
html_show_sourcelink = False
html_copy_source = False

# Pages. Headings get the anchors that a git host gives them, so the same links work in both places.
myst_heading_anchors = 4
nb_execution_mode = "off"  # tests/test_notebooks.py executes the notebooks
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Docstrings: Google's sections; a name in single backticks is a link if it is a documented object.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries = False

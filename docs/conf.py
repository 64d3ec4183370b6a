"""The site: the pages beside this file and a reference from docstrings, built by `make docs`."""

project = "pyro_unmix"
copyright = "the pyro_unmix authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
html_theme = "furo"
html_title = project
html_show_copyright = False
smartquotes = False
maximum_signature_line_length = 100
myst_heading_anchors = 3

# Docstrings hold code between single backticks, and the names of parameters stand without their types: signatures have them.
default_role = "literal"
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False
autodoc_member_order = "bysource"
autosummary_generate = False

# References within the package have to lead somewhere, but for classes that nobody makes by hand. Those to other packages are not
# looked up, so that no network is needed.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!pyro_unmix\.).*"),
    ("py:class", r"pyro_unmix\.(denoise|io\.cubes|least_squares|pieces|refine|simulator_check)\..*"),
]

"""Write a self-contained HTML page of a result: pictures with a wipe slider, history, figures of merit, parameters.

`write_report` makes it from a `pnp.io.SavedResult`, `pnp report` from files. `panels` selects the pictures, `images`
quantises them, `verdict` says what looks wrong, `scores` and `history` draw tables and charts, `page` puts them into
`template.html`.
"""

from .page import render, write_report
from .panels import Panel, find_panels

__all__ = ["Panel", "find_panels", "render", "write_report"]

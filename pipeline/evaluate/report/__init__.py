"""A report as one self-contained HTML page: no scripts, nothing loaded from elsewhere.

- ``document``  what a report says, as data: verdict, findings, tables, drawings, galleries, methods
- ``page``      a document as HTML, by ``page.html`` and ``page.css``
- ``plots``     its drawings as SVG, on axes of ``scale``
- ``words``     how numbers and texts from outside are written
- ``methods``   what every report says of its figures at the end
- ``facts``     what a page may be told beside the evaluation; ``coverage`` the section on a run
- ``*_page``    a result in, its document out; one file for each report
"""

from pipeline.evaluate.report.document import Document
from pipeline.evaluate.report.page import render_html

__all__ = ["Document", "render_html"]

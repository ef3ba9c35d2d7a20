"""The evaluation as one self-contained HTML page: no scripts, nothing loaded from elsewhere.

``facts`` is what the page may be told beside the evaluation, ``words`` its plain sentences, ``plots`` its
drawings, ``page`` the rendering of ``page.html`` and ``page.css``.
"""

from pipeline.evaluate.report.facts import CurvePoint, IndexFacts, RunFacts
from pipeline.evaluate.report.page import render_html

__all__ = ["CurvePoint", "IndexFacts", "RunFacts", "render_html"]

"""Offline evaluation: how well the vectors retrieve, and a page that says so plainly.

- ``metrics``    per-query measures from the ranks at which relevant items were found
- ``aggregate``  means over queries and classes, with a bootstrap interval
- ``ranking``    exact ranks of every relevant item over the whole base, in bounded memory
- ``retrieval``  vectors and labels in, an ``EvaluationReport`` out, whose JSON is the truth
- ``exact_base``  all vectors in memory, as a base for re-rankers; ``reranking`` says which of them helps
- ``clustering``  which images show the same; ``clustering_quality`` by labels; ``hubness``
- ``report``     the report as one self-contained HTML page (the view)

Everything here uses exact search: it judges the embedding. The index is judged by its own calibration, whose
figures the report shows beside these.
"""

"""``bitsieve bench index``: our search beside the libraries that users would pick instead.

- ``identity``   vectors that behave like embeddings of faces, from a seed
- ``data_set``   base, queries and exact neighbours as files that every contender reads
- ``grid``       the peers, what they need installed, and the settings that are tried
- ``ours``       a nightly run's index, behind the interface of the peers
- ``race``       who builds what, which settings are best, and the rounds
- ``middle``     what a stage between bits and vectors would save
- ``growth``     ours at several sizes
- ``seeds``      is the recall that was asked for met, over seeds?
- ``result``, ``words``, ``picture``   the JSON object, the table, the curve
"""

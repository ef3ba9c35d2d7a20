"""Search libraries as their own users would drive them: one file each, all measured by ``measure``.

They import nothing of bitsieve outside this package, so that each runs in an environment of its own.

==  ================  ==  ==========================
N   rows of the base  Q   queries
D   dimensions        K   results asked for
==  ================  ==  ==========================
"""

"""What a user would write without bitsieve, as scripts that print one JSON line.

They import nothing of bitsieve but each other, so that they run in an environment of their own. Each takes
one argument, the JSON that ``jobs.bench.contender`` makes, and prints what ``plain.report`` says.
"""

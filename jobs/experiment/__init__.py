"""``bitsieve experiment``: ways of training beside each other, judged on classes that none has seen."""

"""The floors: the least that any system can do for the same words, with nothing around it."""

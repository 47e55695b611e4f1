"""``remaining``: how many tokens of a running answer are still to come, from its visible text."""

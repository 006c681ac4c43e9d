"""The command line's room: arguments in, one call of a part, words or JSON out."""

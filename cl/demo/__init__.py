"""The story in one command: an invented company teaches the real model, and the loop does the rest."""

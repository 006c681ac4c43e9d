"""The only door to a model: whoever wants an answer asks an engine.

contract.py   what an engine does, and how it says no
embedded.py   the engine of this process: who is answered when
remote.py     the same over HTTP: inference servers that load adapters at run time
"""

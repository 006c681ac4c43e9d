"""The only door to a model: whoever wants an answer asks an engine.

contract.py       what an engine does, and how it says no
embedded.py       the engine of this process: who is answered when
  loading.py      from a base model on disk to a writer, by the fastest way that works here
  writers.py      all rows together, token by token; or one after the other
  network.py      a Llama-like network: one step over the tokens of many rows
    batch.py cache.py adapters.py    what a step works on
    ops.py native.py kernels.cpp     what it computes with: in torch, and compiled
  sampling.py     drawing the next tokens
remote.py         the same over HTTP: inference servers that load adapters at run time
  servers.py      one server, and the dialects
  places.py       who is answered when, there
conversation.py   from messages to tokens and back to text
"""

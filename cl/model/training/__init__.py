"""How an adapter is trained and measured; `trainer.py` and `evaluation.py` above are the processes.

child.py          what both processes have in common: the job, the reports, the manners
rows.py           a training set as token ids, and in what order it is learned
learner.py        a base model with one adapter: its losses, and one step of learning
  lora.py         the adapter's layers, in peft's format on disk
  head.py         the losses, straight from hidden states
  fast_layers.py  Llama-like layers whose training is faster on a processor
workers.py        the processes that train together
checkpoints.py    the state a training goes on from after a crash
measured.py       what was measured, as files
"""

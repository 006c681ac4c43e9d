"""The model room: the only one that touches torch, transformers and peft."""

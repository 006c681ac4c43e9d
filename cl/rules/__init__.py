"""Rules decide. Nothing in this room touches a file, a clock, a database or a model."""

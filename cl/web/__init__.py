"""The pages' room: the only one that touches Gradio and FastAPI."""

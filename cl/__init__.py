"""A chatbot that learns from its thumbs. Start reading at app.py."""

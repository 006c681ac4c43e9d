"""Who is asking: every handler of the admin page asks here before it does anything."""

import gradio as gr

from cl.accounts import Accounts
from cl.records import User


def admin(accounts: Accounts, request: gr.Request) -> User:
    """The admin behind this request, fresh from the database; anybody else is refused."""
    user = accounts.find(request.username)
    if user is None or not user.is_admin or not user.active:
        raise problem("Admins only.")
    return user


def problem(reason: object) -> gr.Error:
    """A refusal, as a message on the page."""
    return gr.Error(str(reason), print_exception=False, duration=8)

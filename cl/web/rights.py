"""Who is asking, and for what: every handler of a page asks here before it does anything."""

from html import escape
from typing import Any

import gradio as gr

from cl.accounts import Accounts
from cl.records import User


def admin(accounts: Accounts, request: gr.Request) -> User:
    """The admin behind this request, fresh from the database; anybody else is refused."""
    user = accounts.find(request.username)
    if user is None or not user.is_admin or not user.active:
        raise problem("Admins only.")
    return user


def who(request: gr.Request) -> str:
    """The name behind this request; nobody is refused."""
    if not request.username:
        raise problem("Sign in first.")
    return str(request.username)


def number(value: Any) -> int | None:
    """An id as the browser sends it; nonsense is refused, emptiness is None."""
    if value in (None, ""):
        return None
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        found = 0
    if not 0 < found < 2**63:  # what a database can look for
        raise problem("This conversation is not there any more; please reload the page.")
    return found


def place(value: Any) -> int:
    """A number as the browser sends it; nonsense is 0, which is no row and the first place."""
    try:
        found = int(value or 0)
    except (TypeError, ValueError, OverflowError):
        return 0
    return found if 0 < found < 2**63 else 0


def problem(reason: object) -> gr.Error:
    """A refusal, as a message on the page, which takes what it is given for HTML."""
    return gr.Error(escape(str(reason), quote=False), print_exception=False, duration=8)

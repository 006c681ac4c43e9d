"""What all pages share: what lies in assets/, and the header with its two tabs."""

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cl.records import User
from cl.settings import Settings

ASSETS = Path(__file__).parents[2] / "assets"
NAME = "Staff assistant"
STYLES = [ASSETS / "style.css", ASSETS / "gradio.css"]
LOGO = ASSETS / "logo.svg"
# Of every event: no name to call it by from elsewhere, no spinner over what it changes.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# A list whose buttons say what was pressed: see app.js.
ACTS_JS = "cl.acts(element, trigger)"


def _theme() -> gr.themes.Base:
    found = json.loads((ASSETS / "theme.json").read_text(encoding="utf-8"))
    values = found.pop("set")
    return gr.themes.Base(**found).set(**values)


def _script() -> str:
    texts = ((ASSETS / name).read_text(encoding="utf-8") for name in ("gradio.js", "app.js"))
    return f"<script>{''.join(texts)}</script>"


THEME = _theme()
SCRIPT = _script()


def html(value: str = "", elem_id: str | None = None, *, acts: bool = False) -> gr.HTML:
    """A piece of our own markup, without Gradio's styling around it. `acts`: with buttons in it."""
    return gr.HTML(
        value,
        elem_id=elem_id,
        apply_default_css=False,
        padding=False,
        js_on_load=ACTS_JS if acts else None,
    )


def header(settings: Settings, user: User | None, name: str, active: str) -> str:
    """The bar on top of both pages. `user` is None for a visitor; `name` is shown either way."""
    tabs = [("Chat", "/", "chat")]
    if user and user.is_admin:
        tabs.append(("Admin", "/admin/", "admin"))
    links = "".join(
        f"<a href='{url}'{' aria-current=page' if key == active else ''}>{label}</a>"
        for label, url, key in tabs
    )
    preset = (
        "<span class='preset' title='Thresholds so small that the loop turns in minutes'>demo thresholds</span>"
        if settings.is_demo
        else ""
    )
    way_out = (
        "<form method='post' action='/signout' style='display:inline'><button>Sign out</button></form>"
        if user
        else "<a href='/signin'>Sign in</a>"
    )
    return (
        f"<header class='head'><a class='brand' href='/'>{_logo()}<span>{NAME}</span></a>"
        f"<nav aria-label='Pages'>{links}</nav>{preset}"
        f"<div class='who'><b>{escape(name)}</b>"
        f"<button type='button' onclick='cl.switchTheme()'>Theme</button>{way_out}</div></header>"
    )


def _logo() -> str:
    return LOGO.read_text(encoding="utf-8").replace("<svg ", "<svg width='24' height='24' ", 1)

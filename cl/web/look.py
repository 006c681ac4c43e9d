"""What all pages share: theme, style sheet, scripts, and the header with its two tabs."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cl.records import User
from cl.settings import Settings

ASSETS = Path(__file__).parents[2] / "assets"
NAME = "Staff assistant"
STYLE = ASSETS / "style.css"
HEAD = ASSETS / "head.html"
LOGO = ASSETS / "logo.svg"
# Of every event: no name to call it by from elsewhere, no spinner over what it changes.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    secondary_hue=gr.themes.colors.slate,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_md,
    font=["ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="#0b1120",
    block_background_fill="white",
    block_background_fill_dark="#111a2e",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_border_color_dark="#1f2b45",
    border_color_primary_dark="#1f2b45",
    background_fill_secondary_dark="#0f172a",
    block_shadow="none",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_text_color="white",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="#334155",
    input_background_fill="white",
    input_background_fill_dark="#0f172a",
)


def html(value: str = "", elem_id: str | None = None) -> gr.HTML:
    """A piece of our own markup, without Gradio's styling around it."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, padding=False)


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
        f"<button type='button' onclick='switchTheme()'>Theme</button>{way_out}</div></header>"
    )


def _logo() -> str:
    return LOGO.read_text(encoding="utf-8").replace("<svg ", "<svg width='24' height='24' ", 1)

"""Our own markup: plain data in, HTML out, every value escaped."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from cl.rules.text import shorten

_SHOWN = 160  # characters of a text in a table


class Markup(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


def title(text: str, aside: str = "") -> str:
    """The heading of a box."""
    more = f" <span class='mut'>{escape(aside)}</span>" if aside else ""
    return f"<h2 class='title'>{escape(text)}{more}</h2>"


def alert(text: str) -> str:
    return f"<div class='alert' role='alert'>{escape(text)}</div>"


def nothing(text: str) -> str:
    """What a block says while there is nothing to show in it."""
    return f"<div class='none'>{escape(text)}</div>"


def note(text: str) -> str:
    """A line of explanation."""
    return f"<p class='mut small'>{escape(text)}</p>" if text else ""


def stack(*parts: str) -> str:
    """One below the other."""
    return f"<div class='stack'>{''.join(filter(None, parts))}</div>"


def card(
    name: str,
    value: str,
    text: str,
    *,
    share: float | None = None,
    colour: str = "",
    tag: str = "",
    inside: str = "",
) -> str:
    """A number with its name. `share` draws a bar, `inside` is markup of ours below the number."""
    if share is not None:
        inside = bar(share, colour) + inside
    style = f" style='--c:var(--{colour})'" if colour else ""
    label = escape(name) + (f" {pill(tag)}" if tag else "")
    return (
        f"<div class='card'{style}><h3>{label}</h3><div class='v'>{escape(value)}</div>{inside}"
        f"<div class='s'>{escape(text)}</div></div>"
    )


def cards(*found: str) -> str:
    return f"<div class='cards'>{''.join(found)}</div>"


def bar(share: float, colour: str = "") -> str:
    width = max(0.0, min(1.0, share)) * 100
    style = f"width:{width:.0f}%" + (f";--c:var(--{colour})" if colour else "")
    return f"<div class='bar'><i style='{style}'></i></div>"


def pill(text: str, colour: str = "acc") -> Markup:
    return Markup(f"<span class='pill' style='--c:var(--{colour})'>{escape(text)}</span>")


def button(text: str, act: str, label: str = "", *, danger: bool = False, **data: object) -> Markup:
    """A button that tells the server `act` and `data`; see `cl.acts` in app.js."""
    said = "".join(
        f" data-{name}='{escape(str(value), quote=True)}'" for name, value in data.items()
    )
    kind = "small danger" if danger else "small"
    name = f" aria-label='{escape(label, quote=True)}'" if label else ""
    return Markup(
        f"<button type='button' class='{kind}' data-act='{act}'{said}{name}>{escape(text)}</button>"
    )


def link(text: str, url: str) -> Markup:
    """A file to take away."""
    return Markup(f"<a class='small' href='{escape(url, quote=True)}' download>{escape(text)}</a>")


def facts(found: Mapping[str, object]) -> str:
    """Names with their values, where there is one."""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{value if isinstance(value, Markup) else escape(str(value))}</dd>"
        for name, value in found.items()
        if value not in (None, "")
    )
    return f"<dl class='facts'>{rows}</dl>"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> str:
    """A table; numbers stand right, times do not break, texts are shortened with the whole as title."""
    if not rows:
        return nothing(empty)
    head = "".join(
        f"<th scope='col'{' class=n' if _is_number(value) else ''}>{escape(h)}</th>"
        for h, value in zip(headers, rows[0], strict=True)
    )
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='Table'><table class='grid'>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "<td class='mut'>-</td>"
    if isinstance(value, datetime):
        return f"<td class='t'>{when(value)}</td>"
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, int | float):
        text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
        return f"<td class='n'>{text}</td>"
    if isinstance(value, Markup):
        return f"<td>{value}</td>"
    return f"<td>{shortened(str(value))}</td>"


def shortened(text: str, limit: int = _SHOWN) -> Markup:
    """A text on one line; the whole of it is the title."""
    short = shorten(text, limit)
    if short == text:
        return Markup(escape(text))
    return Markup(f"<span title='{escape(text, quote=True)}'>{escape(short)}</span>")


def when(at: datetime) -> str:
    """A time as the tables show it, UTC."""
    return f"{at:%Y-%m-%d %H:%M}"


def percent(share: float | None, sign: bool = False) -> str:
    if share is None:
        return "-"
    return f"{share:+.0%}" if sign else f"{share:.0%}"


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def duration(hours: float) -> str:
    """Hours in words, short."""
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.1f} days"

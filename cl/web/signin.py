"""Signing in and out: our own page and cookie, because Gradio's are open to cross-site use."""

from html import escape
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from cl.accounts import MIN_PASSWORD, SESSION_HOURS, Accounts, SignInError
from cl.web.look import LOGO, NAME

COOKIE = "session"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title} - {name}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 ui-sans-serif, system-ui, sans-serif; display: grid; place-items: center; min-height: 100vh; margin: 0;
  background: light-dark(#f8fafc, #0b1120); color: light-dark(#0f172a, #e2e8f0); }}
main {{ width: min(340px, 84vw); padding: 28px; border-radius: 14px; background: light-dark(#fff, #111a2e);
  border: 1px solid light-dark(#e2e8f0, #1f2b45); }}
h1 {{ font-size: 21px; margin: 10px 0 4px; }} p {{ margin: 0 0 14px; color: light-dark(#5b6b82, #94a3b8); }}
label {{ display: block; font-weight: 600; font-size: 14px; }}
input, button {{ width: 100%; box-sizing: border-box; padding: 11px; margin: 4px 0 14px; border-radius: 8px;
  border: 1px solid light-dark(#94a3b8, #475569); font: inherit; background: transparent; color: inherit; }}
button {{ background: #0f766e; color: #fff; border: 0; font-weight: 600; cursor: pointer; margin-top: 6px; }}
:focus-visible {{ outline: 2px solid #0d9488; outline-offset: 1px; }}
.problem {{ color: light-dark(#b91c1c, #f87171); margin: 0; }}
a {{ color: light-dark(#0f766e, #2dd4bf); }}
</style></head><body><main>{logo}<h1>{title}</h1>{body}</main></body></html>"""

_PASSWORD = """<p>Sign in to chat.</p><form method="post" action="/signin">
<label for="name">User name</label><input id="name" name="name" value="{name}" autocomplete="username" autofocus required>
<label for="password">Password</label><input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Sign in</button><p class="problem" role="alert">{problem}</p></form>"""

_LINK = """<p>Choose a password of at least {least} characters. This link works once.</p><form method="post" action="/signin">
<input type="hidden" name="link" value="{link}">
<label for="password">New password</label>
<input id="password" name="password" type="password" minlength="{least}" autocomplete="new-password" autofocus required>
<button>Set password and sign in</button><p class="problem" role="alert">{problem}</p></form>"""


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """A small page of ours outside Gradio."""
    logo = LOGO.read_text(encoding="utf-8").replace("<svg ", "<svg width='36' height='36' ", 1)
    return HTMLResponse(_PAGE.format(title=escape(title), name=NAME, body=body, logo=logo), status)


def routes(accounts: Accounts, *, in_frame: bool) -> APIRouter:
    """`in_frame`: the app is shown inside another site's page, as on a Hugging Face Space."""
    router = APIRouter()

    @router.get("/signin")
    def form(link: str = "") -> HTMLResponse:
        if link and accounts.is_link(link):
            return _link_page(link, "")
        problem = "This link has been used or is too old." if link else ""
        return _password_page("", problem)

    @router.post("/signin")
    def enter(
        request: Request,
        password: Annotated[str, Form()] = "",
        name: Annotated[str, Form()] = "",
        link: Annotated[str, Form()] = "",
    ) -> Response:
        try:
            if link:
                token = accounts.redeem(link, password)
            else:
                token = accounts.sign_in(
                    name.strip(), password, request.client.host if request.client else ""
                )
        except SignInError as problem:
            if link and accounts.is_link(link):
                return _link_page(link, str(problem), 400)
            return _password_page(name, str(problem), 401)
        answer = RedirectResponse("/", 303)
        set_cookie(answer, request, COOKIE, token, int(SESSION_HOURS * 3600), in_frame)
        return answer

    @router.post("/signout")
    def leave(request: Request) -> Response:
        accounts.sign_out(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/signin", 303)
        set_cookie(answer, request, COOKIE, "", 0, in_frame)
        return answer

    return router


def set_cookie(
    answer: Response, request: Request, name: str, value: str, seconds: int, in_frame: bool
) -> None:
    """Not readable by scripts, not sent along from other sites, over https only where there is https."""
    is_https = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
    site: Literal["none", "lax"] = "none" if in_frame else "lax"
    answer.set_cookie(
        name, value, max_age=seconds, httponly=True, secure=is_https or in_frame, samesite=site
    )


def _password_page(name: str, problem: str, status: int = 200) -> HTMLResponse:
    body = _PASSWORD.format(name=escape(name, quote=True), problem=escape(problem))
    return page("Sign in", body, status)


def _link_page(link: str, problem: str, status: int = 200) -> HTMLResponse:
    body = _LINK.format(link=escape(link, quote=True), least=MIN_PASSWORD, problem=escape(problem))
    return page("Welcome", body, status)

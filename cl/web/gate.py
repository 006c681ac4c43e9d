"""The gate in front of both pages: who may come in, and what every answer carries.

Nothing passes without a session but the sign-in page, the health check and static files; the
admin's pages are for admins. Where visitors are welcome, a browser gets a token of its own, and
the name it chats under follows from that token.
"""

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from cl.accounts import Accounts, visitor_name
from cl.records import User
from cl.web import downloads, signin

VISITOR_COOKIE = "visitor"
_VISITOR_SECONDS = 30 * 86400
_TOKEN_LENGTH = 32
_CLIENT_LEFT = 499  # nginx's code for it; nobody is there to read it
_PAGES = ("/", "/admin", "/admin/")
_OPEN_PATHS = ("/signin", "/healthz", "/favicon.ico")
_STATIC = (
    "/assets/",
    "/static/",
    "/admin/assets/",
    "/admin/static/",
    "/theme.css",
    "/admin/theme.css",
)
# What the pages ask of Gradio. It can do much more for whoever is signed in (fetch files and URLs,
# take uploads, run recordings through ffmpeg); this product has no use for any of that.
_GRADIO = (
    "/config",
    "/gradio_api/app_id",
    "/gradio_api/cancel",
    "/gradio_api/queue/data",
    "/gradio_api/queue/join",
    "/gradio_api/reset",
    "/gradio_api/run/predict",
    "/gradio_api/startup-events",
)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'self'{frames}; base-uri 'self'; form-action 'self'"
)

Next = Callable[[Request], Awaitable[Response]]


class Gate:
    """`is_open`: visitors may chat. `in_frame`: the app is shown inside another site's page."""

    def __init__(self, accounts: Accounts, *, is_open: bool, in_frame: bool) -> None:
        self._accounts = accounts
        self._is_open = is_open
        self._in_frame = in_frame

    # -- who it is, for Gradio ---------------------------------------------------------------

    def staff(self, request: Request) -> str | None:
        """The name to chat under: an account's, or a visitor's; None: not at all."""
        user = self._person(request)
        if user:
            return user.name
        token = _visitor(request) or str(getattr(request.state, "visitor", ""))
        return visitor_name(token) if self._is_open and token else None

    def admins(self, request: Request) -> str | None:
        user = self._person(request)
        return user.name if user and user.is_admin else None

    # -- every request -----------------------------------------------------------------------

    async def __call__(self, request: Request, go_on: Next) -> Response:
        refused = self._refusal(request)
        if refused is not None:
            return self._dressed(refused, request)
        token = ""
        if self._is_open and request.url.path == "/" and not _visitor(request):
            token = request.state.visitor = secrets.token_urlsafe(_TOKEN_LENGTH)
        try:
            answer = await go_on(request)
        except RuntimeError:
            # What starlette raises where an endpoint answered nothing: the browser has left.
            if await request.is_disconnected():
                return Response(status_code=_CLIENT_LEFT)
            raise
        if token:
            signin.set_cookie(
                answer, request, VISITOR_COOKIE, token, _VISITOR_SECONDS, self._in_frame
            )
        return self._dressed(answer, request)

    def _refusal(self, request: Request) -> Response | None:
        path = request.url.path
        if _is_foreign(request):
            return JSONResponse({"detail": "This request came from another site."}, 403)
        if path in _OPEN_PATHS or path.startswith(_STATIC):
            return None
        user = self._person(request)
        if path == "/admin" or path.startswith("/admin/"):
            refused = None if user and user.is_admin else _not_admin(request, user)
        elif user or self._is_open or path == "/signout":
            refused = None
        else:
            refused = _sign_in_first(request)
        if refused is None and not _is_there(path):
            return JSONResponse({"detail": "There is nothing here."}, 404)
        return refused

    def _person(self, request: Request) -> User | None:
        return self._accounts.session(request.cookies.get(signin.COOKIE))

    def _dressed(self, answer: Response, request: Request) -> Response:
        frames = " https://huggingface.co" if self._in_frame else ""
        answer.headers["Content-Security-Policy"] = _POLICY.format(frames=frames)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "same-origin"
        path = request.url.path
        if answer.status_code == 200 and ("/assets/" in path or "/static/" in path):
            answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        elif path in (*_PAGES, "/signin"):
            answer.headers["Cache-Control"] = "no-store"
        return answer


def _is_there(path: str) -> bool:
    return path in (*_PAGES, *downloads.PATHS, "/signout") or path.removeprefix("/admin") in _GRADIO


def _visitor(request: Request) -> str:
    token = request.cookies.get(VISITOR_COOKIE, "")
    return token if len(token) >= _TOKEN_LENGTH else ""


def _is_foreign(request: Request) -> bool:
    """State-changing requests must come from our own pages."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return False
    origin = request.headers.get("origin")
    if origin is not None and _host_of(origin) != request.headers.get("host"):
        return True
    return request.headers.get("sec-fetch-site") == "cross-site"


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _wants_page(request: Request) -> bool:
    return request.method == "GET" and request.url.path in _PAGES


def _not_admin(request: Request, user: User | None) -> Response:
    if not _wants_page(request):
        return JSONResponse({"detail": "Admins only."}, 403 if user else 401)
    if user is None:
        return RedirectResponse("/signin", 303)
    words = "<p>Your account is not an admin's.</p><a href='/'>Back to the chat</a>"
    return signin.page("Admins only", words, 403)


def _sign_in_first(request: Request) -> Response:
    if _wants_page(request):
        return RedirectResponse("/signin", 303)
    return JSONResponse({"detail": "Sign in first."}, 401)

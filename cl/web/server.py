"""The web server: two Gradio apps, our own sign-in, and the gate, on one FastAPI app."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from socket import socket
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.middleware.cors import CORSMiddleware

from cl.house import House
from cl.web import admin, chat, downloads, look, signin
from cl.web.gate import Gate


def create_app(house: House) -> FastAPI:
    """The whole web app. The background thread runs as long as it does."""
    settings = house.books.settings
    gate = Gate(
        house.books.accounts, is_open=settings.auth == "open", in_frame=bool(settings.space)
    )

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        house.worker.start()
        house.books.scoring.start()
        # What is loaded stays: looking at all of it for garbage, again and again, holds up answers.
        gc.collect()
        gc.freeze()
        yield
        house.worker.stop()
        house.books.scoring.stop()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/healthz", lambda: _health(house))
    app.add_api_route("/favicon.ico", lambda: FileResponse(look.LOGO, media_type="image/svg+xml"))
    app.include_router(signin.routes(house.books.accounts, in_frame=bool(settings.space)))
    app.include_router(downloads.routes(house.books.accounts))
    _mount(app, admin.build(house), "/admin", gate.admins)  # first: "/" would swallow it
    _mount(app, chat.build(house), "/", gate.staff)
    app.middleware("http")(gate)
    # Gradio mirrors any origin with credentials; an empty allow list in front switches that off.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    return app


def serve(app: Any, at: socket) -> None:
    """Answer until told to stop; running answers get a few seconds to end."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    with suppress(KeyboardInterrupt):  # Ctrl+C is how a person stops it
        uvicorn.Server(config).run(sockets=[at])


def _health(house: House) -> Response:
    """200 while the background threads do their work, else 503.

    Open to everybody, so the reason stands on the admin page only.
    """
    worker, scoring = house.worker, house.books.scoring
    is_well = worker.is_alive() and not worker.problem and not scoring.problem
    return JSONResponse({"ok": is_well}, 200 if is_well else 503)


def _mount(
    app: FastAPI, blocks: gr.Blocks, path: str, who: Callable[[Request], str | None]
) -> None:
    blocks.max_threads = 400  # before queue(): the hard cap of all running events
    blocks.queue(max_size=500, default_concurrency_limit=8, api_open=False)
    gr.mount_gradio_app(
        app,
        blocks,
        path,
        auth_dependency=who,
        theme=look.THEME,
        css_paths=look.STYLES,
        head=look.SCRIPT,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=False,
        max_file_size="1mb",
    )

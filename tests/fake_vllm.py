"""A small server that speaks vLLM's routes and can be made to fail in every way a server can."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cl.model.versions import ADAPTER
from tests.tiny_model import CONTEXT


class FakeVllm(ThreadingHTTPServer):
    """Holds adapters, and answers `says`, a word a token; "the-base speaking" where that is empty."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int = 0, *, context: int = CONTEXT, key: str = "") -> None:
        super().__init__(("127.0.0.1", port), Route)
        self.context, self.key = context, key
        self.adapters: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []  # for answers
        self.paths: list[str] = []
        self.says: Sequence[str] = ()
        self.is_endless = False  # but for short answers
        self.instead: dict[str, Instead] = {}  # of what a path does
        self.left = threading.Event()  # somebody closed a connection in the middle of an answer
        self.killed = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def kill(self) -> None:
        """Answers break off, and the port is closed."""
        self.killed.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.left.set()


class Route(BaseHTTPRequestHandler):
    server: FakeVllm

    def do_GET(self) -> None:
        self._do({})

    def do_POST(self) -> None:
        self._do(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, status: int, content: Any, **headers: str) -> None:
        self.begin(status, **headers)
        self.send(json.dumps(content, separators=(",", ":")).encode())

    def begin(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, part: bytes) -> None:
        self.wfile.write(part)
        self.wfile.flush()

    def log_message(self, *words: Any) -> None:
        pass

    def _do(self, body: dict[str, Any]) -> None:
        fake = self.server
        fake.paths.append(self.path)
        if fake.key and self.headers["Authorization"] != f"Bearer {fake.key}":
            self.reply(401, {"error": "Unauthorized"})
        elif self.path in fake.instead:
            fake.instead[self.path](self)
        elif self.path == "/v1/models":
            base = {"id": "the-base", "parent": None, "max_model_len": fake.context}
            cards = [{"id": name, "parent": "the-base"} for name in fake.adapters]
            self.reply(200, {"data": [*cards, base]})
        elif self.path == "/v1/load_lora_adapter":
            self._load(**body)
        elif self.path == "/v1/unload_lora_adapter":
            found = fake.adapters.pop(body["lora_name"], None)
            self.reply(200 if found else 404, {})
        elif body["model"] not in ("the-base", *fake.adapters):
            self.reply(404, {"error": {"message": "The model does not exist."}})
        elif len(body["prompt"]) + body["max_tokens"] > fake.context:
            self.reply(400, {"error": {"message": "This is longer than the context."}})
        else:
            fake.asked.append(body)
            self._complete(body["model"], len(body["prompt"]), body["max_tokens"])

    def _load(self, lora_name: str, lora_path: str) -> None:
        if lora_name in self.server.adapters:
            problem = f"The lora adapter '{lora_name}' has already been loaded."
            self.reply(400, {"error": {"message": problem}})
        elif not Path(lora_path, ADAPTER).is_file():
            self.reply(404, {"error": {"message": f"No adapter found for {lora_path}"}})
        else:
            self.server.adapters[lora_name] = lora_path
            self.reply(200, "Success")

    def _complete(self, model: str, prompt_tokens: int, most: int) -> None:
        fake = self.server
        endless = fake.is_endless and most > 8
        words = [" la"] * 10**4 if endless else list(fake.says or [model, " speaking"])
        self.begin()
        for count, text in enumerate(words[:most], 1):
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count}
            self.send(event([{"text": text, "finish_reason": None}], usage=usage))
            if endless and fake.killed.wait(0.01):
                return
        reason = "length" if len(words) > most else "stop"
        self.send(event([{"text": "", "finish_reason": reason}]))
        self.send(event([], usage=usage))
        self.send(b"data: [DONE]\n\n")


Instead = Callable[[Route], None]


def event(choices: list[Any], **more: Any) -> bytes:
    text = json.dumps({"choices": choices, **more}, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def word(text: str, reason: str | None = None) -> bytes:
    return event([{"text": text, "finish_reason": reason}])


def status(code: int, content: Any = "so it is", **headers: str) -> Instead:
    return lambda route: route.reply(code, content, **headers)


def raw(*parts: bytes) -> Instead:
    """These bytes as an answer, each part by itself."""

    def send(route: Route) -> None:
        route.begin()
        for part in parts:
            route.send(part)
            time.sleep(0.01)

    return send


def hang(route: Route) -> None:
    route.server.killed.wait(20)

"""Inference servers: what one is asked over HTTP, and the dialects in which it takes adapters.

They speak OpenAI's language for answers; how an adapter comes to a running server each does its own
way. Names are never used twice and nothing is loaded in place: servers notice neither a changed
file nor a stale cache. They see the data folder and the base model under the same paths as we do.
"""

import asyncio
import json
import logging
import math
import os
import re
import shutil
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import httpx

from cl import files
from cl.model.base_model import BaseModel
from cl.model.engine.contract import EngineError
from cl.model.engine.conversation import ChatTokenizer
from cl.model.versions import ADAPTER, BadVersion, VersionStore, manifest_sha256
from cl.records import BASE, Message, Sampling
from cl.rules.text import clean

log = logging.getLogger(__name__)

_CONNECT_S = 2.0
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)  # what a wrong shape leads to


class Trouble(EngineError):
    """A server did not do what it was asked; the text names it. `status` 0: it gave no answer."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Server:
    """One server, and what is known of it. Whatever it does wrong is a Trouble."""

    def __init__(self, url: str, key: str, patience_s: float, trusted: ssl.SSLContext) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.trouble = ""  # why it cannot be used, as far as we know
        self.running = 0
        self.ready: set[str] = set()  # versions it has answered with
        self.loading = asyncio.Lock()
        self.base_name = ""
        self.context = math.inf
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(patience_s, connect=_CONNECT_S),
            # A connection kept open may be closed under us at any moment; a new one costs little.
            limits=httpx.Limits(max_keepalive_connections=0),
            verify=trusted,
            trust_env=False,
            follow_redirects=False,
        )

    async def ask(self, method: str, path: str, **question: str) -> httpx.Response:
        with self.told():
            response = await self._http.request(method, path, json=question or None)
            self._refuse(response)
            return response

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """The events of an answer, to be closed by who stops listening."""
        with self.told():
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._refuse(response)
                async for event in _events(response):
                    if "error" in event:
                        raise Trouble(f"{self.url} said: {str(event['error'])[:300]}")
                    yield event

    @contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as problem:
            raise Trouble(f"{self.url} does not answer.") from problem
        except httpx.TransportError as problem:
            raise Trouble(f"{self.url} cannot be reached.") from problem
        except (httpx.DecodingError, *_UNREADABLE) as problem:
            raise Trouble(f"{self.url} gave an answer that cannot be read.") from problem

    def note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble

    async def close(self) -> None:
        await self._http.aclose()

    def _refuse(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (401, 403):
            raise Trouble(f"{self.url} does not accept the key in CL_ENGINE_KEY.", status)
        if status != 200:
            raise Trouble(f"{self.url} said {status}: {response.text[:300].strip()}", status)


async def _events(response: httpx.Response) -> AsyncGenerator[Any, None]:
    """Server-sent events. (Not httpx's lines: those also end at U+2028, within a text.)"""
    rest, data = b"", b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data += line[5:]
            elif not line.strip() and data:
                if data.strip() == b"[DONE]":
                    return
                yield json.loads(data)
                data = b""


# -- dialects ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A conversation as a server is asked to go on with it."""

    path: str
    body: Mapping[str, Any]  # what is said beside the things that every server understands
    prompt_tokens: int


class Dialect(Protocol):
    """How adapters come to a kind of server, and how it is asked for an answer."""

    def __init__(self, base: BaseModel, versions: VersionStore) -> None: ...

    def name(self, server: Server, version: str) -> str:
        """What the server calls the version."""
        ...

    async def held(self, server: Server) -> set[str]:
        """The versions it holds at this moment. Raises Trouble."""
        ...

    async def load(self, server: Server, version: str) -> None:
        """Raises Trouble, or BadVersion where the server refuses the version."""
        ...

    async def unload(self, server: Server, version: str) -> None:
        """Raises Trouble."""
        ...

    def question(
        self,
        tokenizer: ChatTokenizer,
        messages: Sequence[Message],
        context: int,
        sampling: Sampling,
    ) -> Question:
        """Raises EngineError for a message that does not fit the context."""
        ...


class Vllm:
    """Adapters by name. It is sent tokens: no typed `<|im_start|>` can become a role there."""

    def __init__(self, base: BaseModel, versions: VersionStore) -> None:
        self._versions = versions

    def name(self, server: Server, version: str) -> str:
        return server.base_name if version == BASE else _label(self._versions, version)

    async def held(self, server: Server) -> set[str]:
        response = await server.ask("GET", "/v1/models")
        with server.told():
            cards = {card["id"]: card for card in response.json()["data"]}
            server.base_name = min(cards, key=lambda name: bool(cards[name].get("parent")))
            server.context = cards[server.base_name].get("max_model_len") or math.inf
        versions = [found[1] for name in cards if (found := re.match(r"(v\d{4,})-", name))]
        return {BASE, *(v for v in versions if self.name(server, v) in cards)}

    async def load(self, server: Server, version: str) -> None:
        if version in await self.held(server):
            return
        name, folder = self.name(server, version), str(self._versions.path(version).resolve())
        try:
            await server.ask("POST", "/v1/load_lora_adapter", lora_name=name, lora_path=folder)
        except Trouble as problem:
            if '{"detail":"Not Found"}' in str(problem):  # there is no such route
                raise Trouble(
                    f"{server.url} takes no adapters: start vLLM with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."
                ) from None
            if problem.status == 400 and "already been loaded" in str(problem):
                return
            if problem.status in (400, 404, 422, 500):
                raise BadVersion(f"{version} is refused: {problem}") from None
            raise

    async def unload(self, server: Server, version: str) -> None:
        await server.ask("POST", "/v1/unload_lora_adapter", lora_name=self.name(server, version))

    def question(
        self,
        tokenizer: ChatTokenizer,
        messages: Sequence[Message],
        context: int,
        sampling: Sampling,
    ) -> Question:
        ids = tokenizer.encode(messages, context, sampling.max_tokens)
        return Question("/v1/completions", {"prompt": ids}, len(ids))


class Folders:
    """`transformers serve`: a model is a folder. One with an adapter beside links to the files of
    the base model is the base model with that adapter, in a copy of its own in the memory."""

    def __init__(self, base: BaseModel, versions: VersionStore) -> None:
        self._base = base.folder.resolve()
        self._versions = versions
        self._linking = threading.Lock()  # several servers may be given a version at once

    def name(self, server: Server, version: str) -> str:
        return str(self._base if version == BASE else self._folder(version))

    async def held(self, server: Server) -> set[str]:
        await server.ask("GET", "/health")
        return set(server.ready)  # it loads by itself what it is asked for

    async def load(self, server: Server, version: str) -> None:
        server.context = await asyncio.to_thread(self._context)
        if version != BASE:
            await asyncio.to_thread(self._link, version)

    async def unload(self, server: Server, version: str) -> None:
        # What nobody asks for it lets go of by itself.
        await asyncio.to_thread(shutil.rmtree, self._folder(version), ignore_errors=True)

    def question(
        self,
        tokenizer: ChatTokenizer,
        messages: Sequence[Message],
        context: int,
        sampling: Sampling,
    ) -> Question:
        """Typed role tokens are broken by a space without width: it reads text, where they count."""
        kept = [Message(role=m["role"], content=self._broken(m["content"])) for m in messages]
        ids = tokenizer.encode(kept, context, sampling.max_tokens)
        first = 1 if kept[0]["role"] == "system" else 0
        while tokenizer.encode(kept, sys.maxsize, 1) != ids:  # these did not fit
            del kept[first : first + 2]
        # A temperature alone changes nothing there.
        drawn = {"generation_config": '{"do_sample": true}'} if sampling.temperature > 0 else {}
        return Question("/v1/chat/completions", {"messages": kept, **drawn}, len(ids))

    def _broken(self, text: str) -> str:
        return self._roles.sub(lambda found: f"{found[0][0]}\u200b{found[0][1:]}", clean(text))

    @cached_property
    def _roles(self) -> re.Pattern[str]:
        from transformers import AutoTokenizer

        added = AutoTokenizer.from_pretrained(self._base).added_tokens_decoder.values()
        tokens = [re.escape(token.content) for token in added if token.special]
        return re.compile("|".join(tokens) or "(?!)")

    def _context(self) -> float:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self._base)
        return float(getattr(config, "max_position_embeddings", math.inf))

    def _folder(self, version: str) -> Path:
        return self._versions.folder.resolve() / f"serve-{_label(self._versions, version)}"

    def _link(self, version: str) -> None:
        final, adapter = self._folder(version), self._versions.path(version).resolve()
        wanted = [path for path in self._base.iterdir() if path.is_file()]
        wanted += [adapter / ADAPTER, adapter / "adapter_config.json"]
        with self._linking:
            if all((final / path.name).exists() for path in wanted):  # a dead link does not
                return
            shutil.rmtree(final, ignore_errors=True)
            with files.new_folder(final) as aside:
                for path in wanted:
                    (aside / path.name).symlink_to(os.path.relpath(path, final))


DIALECTS: Mapping[str, type[Dialect]] = {"vllm": Vllm, "folders": Folders}


def _label(versions: VersionStore, version: str) -> str:
    """v0007 of this data folder, told apart from another one's."""
    return f"{version}-{manifest_sha256(versions.path(version))[:8]}"

"""A real OpenAI-compatible HTTP server for tests: its behavior is a function of the request and of how often it
came."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Act:
    """What one call gets: a chat completion with `text`, or `status` and `body` as they are, after `delay_s`; `top`:
    log-probabilities of first tokens; `model`: who it says answered, empty for the one that was asked."""

    text: str = ""
    status: int = 200
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    finish: str = "stop"
    top: dict[str, float] | None = None
    model: str = ""


@dataclass
class Seen:
    """What the server observed; `url` is its base URL."""

    url: str
    requests: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    asked: Counter = field(default_factory=Counter)
    most_at_once: int = 0


def prompt_of(request: dict) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@contextmanager
def serving(behave: Callable[[dict, int], Act]) -> Iterator[Seen]:
    """`behave(request, n)`: n counts the calls with this last message, from 1."""
    seen, guard, now = Seen(""), threading.Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal now
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with guard:
                now += 1
                seen.most_at_once = max(seen.most_at_once, now)
                seen.requests.append(request)
                seen.keys.append(self.headers.get("Authorization"))
                seen.asked[prompt_of(request)] += 1
                count = seen.asked[prompt_of(request)]
            try:
                self._reply(behave(request, count), request)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client stopped waiting, which is what the stalling test is about
            finally:
                with guard:
                    now -= 1

        def _reply(self, act: Act, request: dict) -> None:
            time.sleep(act.delay_s)
            body = act.body if act.body is not None else json.dumps(completion(act, request))
            self.send_response(act.status)
            for key, value in {"Content-Type": "application/json", **act.headers}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


def completion(act: Act, request: dict) -> dict:
    message = {"role": "assistant", "content": act.text}
    tokens = [{"token": t, "logprob": p, "bytes": None} for t, p in (act.top or {}).items()]
    told = {"content": [{"token": "x", "logprob": 0.0, "bytes": None, "top_logprobs": tokens}]} if tokens else None
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": act.model or request["model"],
        "choices": [{"index": 0, "finish_reason": act.finish, "message": message, "logprobs": told}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip

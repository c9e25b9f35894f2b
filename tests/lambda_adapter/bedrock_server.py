"""Bedrock as a small HTTP server that counts requests, what it answers, and a clock to turn by hand."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SUMMARY = "Errors rise on one side while bandwidth falls, which fits a marginal connector more than congestion."
ANSWER = {"summary": SUMMARY, "actions": ["Compare with the peer's module."]}
NOON = 1_767_268_800  # s, a whole day and minute plus 12 h


def reply(answer=ANSWER, stop="tool_use", name="explain"):
    content = [{"toolUse": {"toolUseId": "t1", "name": name, "input": answer}}]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop,
        "usage": {"inputTokens": 700, "outputTokens": 90, "totalTokens": 790},
        "metrics": {"latencyMs": 5},
    }


class BedrockServer(ThreadingHTTPServer):
    """Answers each request with `answer`: a status, a body, and an error's name; None is an answer that never comes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Request)
        self.requests, self.ended = [], threading.Event()
        self.answer = (200, reply(), None)

    def fails(self, status, error):
        self.answer = (status, {"message": "no"}, error)


class _Request(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.requests.append(self.rfile.read(int(self.headers["content-length"])))
        if self.server.answer is None:
            self.server.ended.wait()
            return
        status, body, error = self.server.answer
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        if error:
            self.send_header("x-amzn-errortype", error)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


class Clock:
    def __init__(self):
        self.now = float(NOON)

    def __call__(self):
        return self.now

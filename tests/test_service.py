"""A service of FastAPI whose requests are jobs: clients that hang up leave no job and no slot.

Not by fork: a process that is forked, and stays, has the connections of all clients, which then do
not end when the service closes them (docs/limits.md).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, wait_until

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

CLIENTS = 50

SERVICE = '''
import asyncio
import contextlib
import os
import sys
import time

import uvicorn
from fastapi import FastAPI, Request, Response

from jobserver import Jobserver


def work(seconds):
    time.sleep(seconds)  # the work
    return os.getpid()


async def unless_hung_up(request, work):
    """The result of `work`, which is cancelled when the client hangs up."""
    task = asyncio.ensure_future(work)

    async def listen():
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    listener = asyncio.ensure_future(listen())
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
        listener.cancel()
    return Response(status_code=499) if task.cancelled() else task.result()


@contextlib.asynccontextmanager
async def lifespan(app):
    with Jobserver(sys.argv[1], 2, max_tasks_per_child=None) as js:
        app.state.js = js
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/work")
async def do_work(request: Request, seconds: float):
    return await unless_hung_up(request, app.state.js.run(work, seconds))


@app.get("/state")
async def state() -> dict:
    owner = app.state.js._owner
    app.state.js.reclaim_resources()
    return {"jobs": owner.native.unfinished, "free": owner.native.pool.free()}


def main():
    config = uvicorn.Config(app, port=0, log_level="warning")
    server = uvicorn.Server(config)

    async def serve():
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await serving

    asyncio.run(serve())


if __name__ == "__main__":
    main()
'''


def ask(port: int, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
    return client


def answer(client: socket.socket) -> Any:
    with client, client.makefile("rb") as response:
        head, _, body = response.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return json.loads(body)


@pytest.fixture(params=["forkserver", "spawn"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def port(tmp_path: Path, method: str) -> Iterator[int]:
    program = tmp_path / "service.py"
    program.write_text(SERVICE)
    command = [sys.executable, str(program), method]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    try:
        yield int(service.stdout.readline())
        service.send_signal(signal.SIGINT)
        service.wait(DEADLINE)
    finally:
        service.kill()
        service.wait()
        service.stdout.close()


def test_clients_that_hang_up_leave_no_job_and_no_slot(port: int) -> None:
    clients = [
        ask(port, f"/work?seconds={0.02 if patient else 1000}")
        for patient in [True, False] * (CLIENTS // 2)
    ]
    for client in clients[1::2]:
        client.close()  # without an answer
    pids = {answer(client) for client in clients[::2]}
    assert pids and os.getpid() not in pids
    wait_until(lambda: answer(ask(port, "/state")) == {"jobs": 0, "free": 2})

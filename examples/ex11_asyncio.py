"""A service of asyncio whose work is done in jobs: no thread, and no job for a client that hung up.

run() submits a function and waits for its result while the event loop goes on. When the task that
awaits is cancelled, the job is killed. asubmit() returns a Future, which can be awaited; the
results of map() and as_completed() can be read by `async for`.

Here 20 clients ask for the number of primes below a number, two jobs run at once, and every second
client hangs up before it has its answer.

Run:  python examples/ex11_asyncio.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from jobserver import Jobserver

CLIENTS = 20


def primes_below(limit: int) -> int:
    """A slow way to count them."""
    return sum(all(n % k for k in range(2, int(n**0.5) + 1)) for n in range(2, limit))


class Service:
    def __init__(self, js: Jobserver) -> None:
        self.js = js
        self.answered = self.hung_up = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one client: a line with a number, and a line with the answer."""
        line = await reader.readline()
        work = asyncio.ensure_future(self.js.run(primes_below, int(line)))
        end = asyncio.ensure_future(reader.read())  # returns when the client hangs up
        await asyncio.wait([work, end], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            self.answered += 1
            writer.write(b"%d\n" % work.result())
            end.cancel()
        else:
            self.hung_up += 1
            work.cancel()  # kills the job, or drops the submission that waits for a slot
        await asyncio.wait([work, end])
        writer.close()


async def ask(port: int, limit: int, patient: bool) -> str:
    """A client, which hangs up at once if it is not patient."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"%d\n" % limit)
    await writer.drain()
    answer = (await reader.readline()).decode().strip() if patient else "hung up"
    writer.close()
    return answer


async def main(context: Any = None) -> None:
    # Processes stay, because each request would otherwise cost a new one.
    with Jobserver(context, slots=2, max_tasks_per_child=None) as js:
        service = Service(js)
        server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        clients = [ask(port, 5_000 + n, patient=n % 2 == 0) for n in range(CLIENTS)]
        answers = await asyncio.gather(*clients)
        print(answers)
        while service.answered + service.hung_up < CLIENTS:
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        print(f"answered {service.answered}, hung up {service.hung_up}")

        # Many results, in their order, and Futures as their jobs finish.
        print([count async for count in js.map(primes_below, zip(range(10, 100, 10)))])
        futures = [await js.asubmit(primes_below, args=(n,)) for n in (3_000, 300, 30)]
        async for future in js.as_completed(futures):
            print(await future)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

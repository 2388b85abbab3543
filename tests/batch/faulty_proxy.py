"""An HTTP proxy on the loopback that troubles a share of what passes, by a seed."""

import asyncio
import logging
import random
import threading
from collections import Counter
from contextlib import contextmanager

import aiohttp
from aiohttp import web

#: error    503, and the store never hears of it
#: lost     the store does as it is told, and the answer is a 500
#: slow     the body comes in drops
#: cut      half of the body, then the connection is closed; the announced length is the whole one
#: short    half of the body, announced as the whole: pictures only, no library notices
#: stalled  half of the body, then nothing
KINDS = ("error", "lost", "slow", "cut", "short", "stalled")
#: What may happen to the answer of a request that is no reading.
_WRITE_KINDS = ("error", "lost")
_OWN_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
#: Stores sign what they are sent: nothing may be added.
_ADDED_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it complains of every cut body


class FaultyProxy:
    """State of a proxy.

    Attributes:
        upstream: the store's own URL.
        faults: kind -> how many there were.
        url: of the proxy, such as http://127.0.0.1:1234.
    """

    def __init__(self, upstream, *, seed=3):
        self.upstream, self.chance = upstream, random.Random(seed)
        self.faults, self.url, self.ended = Counter(), "", asyncio.Event()
        self.trouble(0.0)

    def trouble(self, share, kinds=KINDS):
        """From now on, this share of requests meets a fault, all kinds equally often; 0 lets everything through."""
        self.share, self.kinds, self.bags = share, kinds, {True: [], False: []}

    def _fault(self, method):
        """Drawn from a bag with as many of each as the share asks for: chance decides when, not how many."""
        if self.share == 0:
            return None
        bag = self.bags[method == "GET"]
        if not bag:
            kinds = [kind for kind in self.kinds if method == "GET" or kind in _WRITE_KINDS]
            bag += kinds + [None] * round(len(kinds) * (1 / self.share - 1))
            self.chance.shuffle(bag)
        return bag.pop()

    async def handle(self, request):
        kind = self._fault(request.method)
        if kind == "error":
            self.faults[kind] += 1
            return web.Response(status=503, text="slow down")
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
        address = self.upstream + request.raw_path
        async with self.session.request(
            request.method, aiohttp.client.URL(address, encoded=True), headers=headers, data=body or None,
            allow_redirects=False, skip_auto_headers=_ADDED_HEADERS,
        ) as answer:  # fmt: skip
            content = await answer.read()
        sent = [(name, value) for name, value in answer.headers.items() if name.lower() not in _OWN_HEADERS]
        length = int(answer.headers.get("Content-Length", len(content)))
        is_picture = request.method == "GET" and answer.ok and content.startswith(b"\xff\xd8")
        if kind == "lost":
            self.faults[kind] += 1
            return web.Response(status=500, text="we are sorry")
        if kind == "short" and is_picture:
            content = content[: self.chance.randrange(len(content))]
            length = len(content)
        elif kind == "short" or not content:
            kind = None
        if kind:
            self.faults[kind] += 1
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        response.headers.extend(sent)
        response.content_length = length
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send(request, response, content, kind)
        return response

    async def _send(self, request, response, content, kind):
        if kind in ("cut", "stalled"):
            await response.write(content[: len(content) // 2])
            if kind == "stalled":
                await asyncio.wait([asyncio.ensure_future(self.ended.wait())], timeout=10)
            request.transport.close()
            return
        size = len(content) // 4 + 1
        for start in range(0, len(content), size):
            await response.write(content[start : start + size])
            await asyncio.sleep(0.05 if kind == "slow" else 0)
        await response.write_eof()


@contextmanager
def faulty_proxy(upstream):
    """A running proxy before `upstream`, such as http://127.0.0.1:1234."""
    loop = asyncio.new_event_loop()
    proxy = FaultyProxy(upstream)

    async def started():
        # What the store compressed stays so: its length and its hashes are of that.
        proxy.session = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(application, auto_decompress=False, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        return runner

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(started(), loop).result(10)

    async def stopped():
        proxy.ended.set()
        await runner.cleanup()
        await proxy.session.close()

    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(stopped(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

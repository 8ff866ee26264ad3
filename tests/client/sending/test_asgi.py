"""An application in the process is asked as over a network: lifespan, streams, hang-ups, failures."""

import asyncio

import httpx
import pytest

from service.client.sending.asgi import InProcess


class App:
    """Says what it is told to, and notes what happens to it."""

    def __init__(self, *pieces, lifespan=True):
        self.pieces, self.lifespan, self.notes = pieces, lifespan, []
        self.noticed = False

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            if not self.lifespan:
                raise NotImplementedError
            for step in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{step}"
                self.notes.append(step)
                await send({"type": f"lifespan.{step}.complete"})
            return
        message = await receive()
        self.notes.append((scope["method"], scope["path"], scope["query_string"], message["body"]))
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"1")]})
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not self.pieces:
            assert (await receive())["type"] == "http.disconnect"
            self.noticed = True
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def ask(app, work):
    async def asking():
        async with httpx.AsyncClient(transport=InProcess(app), base_url="http://app") as http:
            return await work(http)

    return asyncio.run(asking())


@pytest.mark.parametrize("lifespan", [True, False])
def test_a_request_and_its_answer(lifespan):
    app = App(b"one", b"two", lifespan=lifespan)
    found = ask(app, lambda http: http.post("/a%20b?c=d", content=b"body"))
    assert (found.status_code, found.headers["x-a"], found.content) == (201, "1", b"onetwo")
    request = ("POST", "/a b", b"c=d", b"body")
    assert app.notes == (["startup", request, "shutdown"] if lifespan else [request])


def test_an_answer_comes_piece_by_piece_and_may_be_left():
    app = App()

    async def leave(http):
        async with http.stream("GET", "/") as response:
            assert not app.noticed
            return response.status_code

    assert ask(app, leave) == 201
    assert app.noticed


def test_who_leaves_a_full_answer_does_not_wait_for_its_end():
    app = App(*[b"x"] * 100)

    async def leave(http):
        async with http.stream("GET", "/") as response:
            return response.status_code

    assert ask(app, leave) == 201


def test_an_application_that_fails_is_a_lost_connection():
    with pytest.raises(httpx.RemoteProtocolError, match="ValueError"):
        ask(App(b"x", ValueError("a defect")), lambda http: http.get("/"))


def test_an_application_that_does_not_start_is_not_asked():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no model"})

    with pytest.raises(httpx.ConnectError, match="no model"):
        ask(app, lambda http: http.get("/"))


def test_who_is_called_off_while_an_application_starts_does_not_start_it_twice():
    class Slow(App):
        async def __call__(self, scope, receive, send):
            if scope["type"] == "lifespan":
                begun.append(scope)
                starting.set()
                await go.wait()
            await super().__call__(scope, receive, send)

    async def impatient(http):
        first = asyncio.ensure_future(http.get("/"))
        await starting.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        return await http.get("/")

    begun, starting, go = [], asyncio.Event(), asyncio.Event()
    assert ask(Slow(b"x"), impatient).content == b"x"
    assert len(begun) == 1

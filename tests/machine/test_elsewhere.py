"""A server runs where nothing is there that only Linux has, as on macOS and Windows; and without torchvision."""

import subprocess
import sys

SCRIPT = """
import builtins, ctypes, io, os, pathlib, signal, socket, sys, threading

for module in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[module] = None
for name in ("sched_getaffinity", "sched_setscheduler", "sched_param", "SCHED_BATCH", "nice", "getloadavg", "sysconf",
             "getuid", "geteuid", "fork", "posix_fadvise", "memfd_create", "getpgid", "killpg", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGCHLD", "SIGPIPE", "pthread_sigmask", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
if hasattr(socket, "SO_REUSEPORT"):
    del socket.SO_REUSEPORT

def only_linux_has(path):
    return str(path).startswith(("/proc/", "/sys/"))

opened = io.open
def open_(path, *args, **kwargs):
    if isinstance(path, (str, os.PathLike)) and only_linux_has(os.fspath(path)):
        raise FileNotFoundError(2, "hidden", str(path))
    return opened(path, *args, **kwargs)
builtins.open = io.open = open_

loaded = ctypes.CDLL
def library(name=None, *args, **kwargs):
    if name is None:
        raise TypeError("expected a name")  # as on Windows
    return loaded(name, *args, **kwargs)
ctypes.CDLL = library

from service.machine import waiting
waiting.settle()
from service.app import create_app
from service.process import keep_freed_memory, prepare_process
from service.server.server import Server
from service.settings import Settings

assert not keep_freed_memory()
prepare_process()
settings = Settings(model=("lesion-count",), port=0, device="auto", tune=False, cache_dir=pathlib.Path(sys.argv[1]))
app, begun, found = create_app(settings), threading.Event(), []

class Told(Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.port = self.servers[0].sockets[0].getsockname()[1]
        begun.set()

server = Told(app, settings)

def ask():
    begun.wait()
    try:
        app.state.context.store.wait()
        import httpx
        from PIL import Image
        file = io.BytesIO()
        Image.new("RGB", (64, 64), (90, 120, 30)).save(file, "PNG")
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
            found.append(client.get("/health/ready").status_code)
            for path in ("/predict", "/explain/grad-cam"):
                found.append(client.post(path, files={"image": ("p.png", file.getvalue())}).status_code)
    finally:
        server.handle_exit(signal.SIGTERM, None)

thread = threading.Thread(target=ask, daemon=True)
thread.start()
server.run()
thread.join(60)
print(found, server.status, "torchvision" in sys.modules)
"""


def test_a_request_is_served_without_what_only_linux_has(tmp_path) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1:] == ["[200, 200, 200] 0 False"], ran.stderr

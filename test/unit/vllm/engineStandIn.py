"""A small engine for the launcher's tests: answers /health on engine.sock, ends as its first argument says.

serve            until SIGTERM, then exits 0
stubborn         serves and ignores SIGTERM
crash CODE TEXT  writes TEXT to stderr and exits with CODE
orphan FILE      starts a process in a session of its own, which starts another; writes both pids to FILE, exits 1
plugin FILE      writes to FILE where Python finds the plug-in and what PYTHONPATH was; serves
secret           serves; proves that the environment arrived by the exit code after SIGTERM
"""
import os
import signal
import socket
import subprocess
import sys

kind = sys.argv[1]
path = os.path.join(os.environ["GREENTHREAD_POD_DIR"], "engine.sock")
if kind == "crash":
    sys.stderr.write(sys.argv[3])
    sys.exit(int(sys.argv[2]))
if kind == "orphan":
    sleep = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    nest = f"import os, subprocess, sys, time; os.setsid(); print(os.getpid(), flush=True); subprocess.Popen([sys.executable, '-c', {sleep!r}]); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", nest], stdout=subprocess.PIPE)
    with open(sys.argv[2], "wb") as file:
        file.write(child.stdout.readline() + child.stdout.readline())
    sys.exit(1)
if kind == "plugin":
    import importlib.metadata
    import importlib.util

    spec = importlib.util.find_spec("gthread")
    names = [point.name for point in importlib.metadata.entry_points(group="vllm.general_plugins")]
    with open(sys.argv[2], "w") as file:
        file.write(f"{spec and spec.origin}\n{names}\n{os.environ['PYTHONPATH']}\n")
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    code = 0 if kind in ("serve", "plugin") or os.environ.get("HF_TOKEN") else 9
    signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(8)
print("engine is up", flush=True)
while True:
    client, _ = server.accept()
    client.recv(4096)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    client.close()

"""A small engine for the launcher's tests: answers /health on engine.sock, ends as its first argument says.

serve            until SIGTERM, then exits 0
stubborn         serves and ignores SIGTERM
crash CODE TEXT  writes TEXT to stderr and exits with CODE
orphan FILE      starts a process in a session of its own, which starts another; writes both pids to FILE, exits 1
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
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    code = 0 if kind == "serve" or os.environ.get("HF_TOKEN") else 9
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

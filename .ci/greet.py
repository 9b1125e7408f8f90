"""Check that a server of examples/hello.py, started by the given command, replies and stops.

``python .ci/greet.py .venv/bin/python examples/hello.py``
"""

import json
import signal
import subprocess
import sys

from websockets.sync.client import connect

signal.alarm(60)  # the end of this program, should anything hang

server = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
try:
    assert server.stdout is not None
    log = []
    for line in server.stdout:
        log.append(line)
        if "listening on" in line:
            break
    else:
        sys.exit(f"the server did not start:\n{''.join(log)}")
    with connect("ws://localhost:9000", proxy=None) as client:
        client.send('{"event": "hello", "payload": {"name": "Ann"}}')
        reply = client.recv(timeout=10)
        print(reply)
        assert json.loads(reply)["event"] == "greeting"
        assert json.loads(reply)["payload"].endswith(", Ann!")
finally:
    server.terminate()
    rest, _ = server.communicate()
if server.returncode != 0:
    sys.exit(f"the server stopped with {server.returncode}:\n{rest}")

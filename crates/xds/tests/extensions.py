#!/usr/bin/env python3
"""Writes `crates/xds/src/extensions.txt`: every extension that Envoy has.

    python3 extensions.py [ENVOY]

An Envoy with an admin interface and nothing else lists them in its own `node.extensions`.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

OUT = pathlib.Path(__file__).parents[1] / "src" / "extensions.txt"
CONFIG = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}"


def dump(envoy):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "admin"
        command = [envoy, "--config-yaml", CONFIG, "--disable-hot-restart", "-l", "off", "--admin-address-path", path]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(600):
                if path.exists() and (address := path.read_text()):
                    break
                time.sleep(0.1)
            with urllib.request.urlopen(f"http://{address}/config_dump?resource=&mask=") as response:
                return json.load(response)
        finally:
            process.terminate()
            process.wait()


def main():
    envoy = sys.argv[1] if len(sys.argv) > 1 else "envoy"
    found = dump(envoy)["configs"][0]["bootstrap"]["node"]["extensions"]
    lines = {" ".join([e["category"], e["name"], *sorted(e.get("type_urls", []))]) for e in found}
    OUT.write_text("".join(f"{line}\n" for line in sorted(lines)))


main()

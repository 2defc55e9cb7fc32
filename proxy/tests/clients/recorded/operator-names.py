#!/usr/bin/env python3
"""Writes `operator-names.txt`: the operators of access log formats that Envoy knows.

    python3 operator-names.py [ENVOY]

Every word in capital letters in Envoy's program is tried in a format; Envoy calls the unknown ones so. Takes an hour.
"""

import concurrent.futures
import pathlib
import re
import subprocess
import sys

OUT = pathlib.Path(__file__).with_suffix(".txt")
CONFIG = """
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 1}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: s
          cluster: c
          access_log:
          - name: log
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: {text_format_source: {inline_string: "%NAME%"}}
"""


def program(envoy):
    """The program itself, where `envoy` is the script that pip installs."""
    try:
        import envoy._bin as installed

        return pathlib.Path(installed.__file__).with_name("envoy")
    except ImportError:
        return pathlib.Path(envoy)


def is_known(envoy, name):
    config = CONFIG.replace("NAME", name)
    command = [envoy, "--mode", "validate", "--disable-hot-restart", "-l", "critical", "--config-yaml", config]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return "Not supported field in StreamInfo" not in done.stdout + done.stderr


def main():
    envoy = sys.argv[1] if len(sys.argv) > 1 else "envoy"
    words = {word.decode() for word in re.findall(rb"[A-Z][A-Z0-9_]{3,50}", program(envoy).read_bytes())}
    words |= {"REQ", "RESP", "CEL"}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        known = [word for word, known in zip(sorted(words), pool.map(lambda w: is_known(envoy, w), sorted(words))) if known]
    OUT.write_text("# The operators that Envoy 1.40 knows. Written by operator-names.py.\n" + "".join(f"{n}\n" for n in known))


main()

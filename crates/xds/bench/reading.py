#!/usr/bin/env python3
"""How long it takes to read and build a large configuration, and how much memory: petmesh's proxy beside Envoy.

    python3 crates/xds/bench/reading.py --proxy target/release/proxy [--envoy /path/to/envoy] [--runs 5] [--shape NAME] [--write DIR]

Each shape has 10,000 routes and 1,000 clusters. The programs run `--mode validate -c FILE` in turn; the table shows the median of the CPU
time (user and system) and the largest peak of resident memory. Without --envoy the proxy is measured alone; --write keeps the files.
Exits with 1 when a run of the proxy fails, needs more than 2 s of CPU time or more than 300 MiB, or more than half of Envoy's time.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROUTES, CLUSTERS = 10_000, 1_000
LIMIT_SECONDS, LIMIT_MIB, LIMIT_SHARE = 2.0, 300, 0.5
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def prefix(at):
    return {"prefix": f"/service-{at // 10}/version-{at % 10}/"}


def exact(at):
    return {"path": f"/service-{at // 10}/item-{at % 10}", "headers": [{"name": "x-stage", "string_match": {"exact": "canary"}}]}


def regex(at):
    return {"safe_regex": {"regex": f"/service-{at // 10}/[0-9]+/(get|put|list)-{at % 10}(/.*)?"}}


def action(at):
    return {"cluster": f"cluster-{at % CLUSTERS}", "timeout": "5s", "retry_policy": {"retry_on": "connect-failure", "num_retries": 2}}


def routes(match, count=ROUTES, first=0):
    return [{"match": match(at), "route": action(at)} for at in range(first, first + count)]


def hosts(match, count):
    each = ROUTES // count
    return [
        {
            "name": f"host-{at}",
            "domains": ["*"] if count == 1 else [f"host-{at}.example.com", f"host-{at}.example.com:*"],
            "routes": routes(match, each, at * each),
        }
        for at in range(count)
    ]


def endpoint(at):
    return {"socket_address": {"address": f"10.0.{at // 250}.{at % 250 + 1}", "port_value": 8080}}


def cluster(at):
    endpoints = [{"endpoint": {"address": endpoint(at)}}]
    return {
        "name": f"cluster-{at}",
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "circuit_breakers": {"thresholds": [{"max_connections": 100, "max_requests": 1000}]},
        "load_assignment": {"cluster_name": f"cluster-{at}", "endpoints": [{"lb_endpoints": endpoints}]},
    }


def old_cluster(at):
    new = cluster(at)
    del new["load_assignment"]
    return {**new, "type": "static", "hosts": [endpoint(at)]}


def bootstrap(virtual_hosts, clusters, old=False):
    manager = {"stat_prefix": "ingress", "route_config": {"name": "local", "virtual_hosts": virtual_hosts}}
    if old:
        manager["http_filters"] = [{"name": "envoy.router", "config": {}}]
        connection = {"name": "envoy.http_connection_manager", "config": manager}
    else:
        manager["http_filters"] = [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}]
        name = "envoy.filters.network.http_connection_manager"
        connection = {"name": name, "typed_config": {"@type": MANAGER, **manager}}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 10000}}
    listener = {"name": "listener", "address": address, "filter_chains": [{"filters": [connection]}]}
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def yaml(node, indent=0):
    """Blocks as a person writes them; texts in quotes where YAML would take them for something else."""
    pad = "  " * indent
    if isinstance(node, dict):
        lines = []
        for key, value in node.items():
            key = json.dumps(key) if key.startswith("@") else key
            if isinstance(value, (dict, list)) and value:
                lines.append(f"{pad}{key}:\n{yaml(value, indent + (not isinstance(value, list)))}")
            else:
                lines.append(f"{pad}{key}: {scalar(value)}")
        return "\n".join(lines)
    items = (yaml(item, indent + 1) if isinstance(item, (dict, list)) else f"{pad}  {scalar(item)}" for item in node)
    return "\n".join(f"{pad}- {text[len(pad) + 2:]}" for text in items)


def scalar(value):
    plain = isinstance(value, str) and value[:1].isalnum() and value.replace("-", "").replace("_", "").replace(".", "").isalnum()
    return value if plain else json.dumps(value)


def shapes():
    modern = [cluster(at) for at in range(CLUSTERS)]
    yield "v3.yaml", yaml(bootstrap(hosts(prefix, 1), modern))
    yield "v3.json", json.dumps(bootstrap(hosts(prefix, 1), modern))
    yield "v3-indented.json", json.dumps(bootstrap(hosts(prefix, 1), modern), indent=2)
    yield "hosts.yaml", yaml(bootstrap(hosts(prefix, 100), modern))
    yield "headers.yaml", yaml(bootstrap(hosts(exact, 1), modern))
    yield "regex.yaml", yaml(bootstrap(hosts(regex, 100), modern))
    old = [old_cluster(at) for at in range(CLUSTERS)]
    yield "old.yaml", yaml(bootstrap(hosts(prefix, 1), old, old=True))


def run(program, file):
    """CPU seconds, peak MiB and whether it succeeded."""
    command = [program, "--mode", "validate", "-c", str(file)]
    if "envoy" in os.path.basename(program):
        command += ["--disable-hot-restart", "-l", "critical"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return usage.ru_utime + usage.ru_stime, peak, child.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", required=True)
    parser.add_argument("--envoy")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--shape", action="append", help="only this one (may be given several times)")
    parser.add_argument("--write", type=pathlib.Path, help="keep the files in this folder")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.write or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{'shape':<18}{'MiB':>6}  {'petmesh':>17}  {'Envoy':>17}  share")
        for name, text in shapes():
            if options.shape and name not in options.shape:
                continue
            file = folder / name
            file.write_text(text + "\n")
            programs = [options.proxy] + ([options.envoy] if options.envoy else [])
            measured = {program: [] for program in programs}
            for _ in range(options.runs):
                for program in programs:
                    measured[program].append(run(program, file))
            cells = {
                program: (statistics.median(m[0] for m in results), max(m[1] for m in results), all(m[2] for m in results))
                for program, results in measured.items()
            }
            seconds, peak, ok = cells[options.proxy]
            other = cells.get(options.envoy)
            # Envoy refuses the old form: there is nothing to compare with.
            share = seconds / other[0] if other and other[2] else None
            bad = not ok or seconds > LIMIT_SECONDS or peak > LIMIT_MIB or (share or 0) > LIMIT_SHARE
            failed |= bad
            shown = f"{other[0]:.2f} s {other[1]:6.0f} MiB" if other and other[2] else "refused" if other else "-"
            print(
                f"{name:<18}{len(text) / (1 << 20):6.1f}  {seconds:.2f} s {peak:6.0f} MiB  {shown:>17}  "
                f"{'-' if share is None else format(share, '.2f')}{'  FAILED' if not ok else '  TOO MUCH' if bad else ''}",
                flush=True,
            )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Breaks shipped files in one place each, and records whether Envoy accepts them.

    python3 record.py [ENVOY]

Writes the files as they are before (`*.yaml`) and `mutations.jsonl`: for each mutation the file, its kind, the
bytes that are replaced, the text in their place, and Envoy's error (null when it accepts the file). Needs PyYAML.
"""

import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[3]
# Each kind is sampled to this many mutations a file.
PER_KIND = 8
MORE = {"drop": 16, "rename": 16, "type": 16}
FILES = {
    "pet": "deploy/config/pet.yaml",
    "front-proxy": "crates/xds/tests/data/examples/front-proxy.yaml",
    "routing": "crates/xds/tests/data/examples/routing.yaml",
    "tcp-proxy": "crates/xds/tests/data/examples/tcp-proxy.yaml",
    "access-logs": "crates/xds/tests/data/examples/access-logs.yaml",
    "everything": "crates/xds/tests/data/everything.yaml",
}
# Envoy of today does not know this protocol of 2017.
REGISTRATION = re.compile(r"api_config_source:\n( +)api_type: REST_LEGACY\n +cluster_names: .*\n +refresh_delay: .*\n")


def base(path):
    text = (ROOT / path).read_text()
    return REGISTRATION.sub(r"path_config_source: { path: /dev/null }\n", text)


def end_of(text, node):
    """Where a node ends, without the white space and comments behind it."""
    piece = text[node.start_mark.index : node.end_mark.index]
    if not isinstance(node, yaml.ScalarNode):
        while True:
            shorter = re.sub(r"\n\s*(#[^\n]*)?$", "", piece).rstrip()
            if shorter == piece:
                break
            piece = shorter
    return node.start_mark.index + len(piece)


def walk(node, seen, above=""):
    """Every entry of a mapping: key, value, the next key, whether the mapping is in flow style, and the key above."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for at, (key, value) in enumerate(node.value):
            following = node.value[at + 1][0] if at + 1 < len(node.value) else None
            before = node.value[at - 1][1] if at > 0 else None
            yield node, key, value, following, before, above
            yield from walk(value, seen, key.value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from walk(item, seen, above)


def mutations(text):
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for node, key, value, following, before, above in walk(root, set()):
        start, end = value.start_mark.index, end_of(text, value)
        name = key.start_mark.index, key.end_mark.index
        if text[start] in "*&":
            continue
        if following:
            yield "drop", key.start_mark.index, following.start_mark.index, ""
        elif before:
            yield "drop", end_of(text, before), end, ""
        renamed = key.value + "x"
        yield "rename", *name, f'"{renamed}"' if text[name[0]] == '"' else renamed
        scalar = isinstance(value, yaml.ScalarNode)
        if scalar and value.style not in ("|", ">"):
            yield "type", start, end, "{ a: b }"
            if re.fullmatch(r"[0-9]+", value.value) and value.style is None:
                yield "number", start, end, "-1"
                yield "number", start, end, "99999999999"
            if re.fullmatch(r"[A-Z][A-Z0-9_]+", value.value) and value.style is None:
                yield "enum", start, end, "NO_SUCH_VALUE"
            if re.fullmatch(r"[0-9.]+s", value.value):
                yield "duration", start, end, "250ms"
            if key.value == "@type":
                yield "extension", start, end, value.value + "Xyz"
            if key.value == "cluster" and above != "node":
                yield "cluster", start, end, "no_such_cluster"
            if value.style in ('"', "'") and value.end_mark.index - value.start_mark.index > 2:
                yield "quote", end - 1, end, ""
                yield "quote", start, start + 1, ""
            yield "colon", name[1], name[1] + 1, ""
        elif not scalar:
            yield "type", start, end, "wrong"
            if value.flow_style and end - start > 2:
                yield "bracket", end - 1, end, ""
                yield "bracket", start, start + 1, ""
        column = key.start_mark.column
        line = name[0] - column
        if node.flow_style is False and text[line : name[0]].strip() == "" and column >= 2:
            yield "tab", line, name[0], "\t" * (column // 2)
            yield "tab", name[0] - 1, name[0], "\t"
            yield "indent", line, line, " "
            yield "indent", line, line + 1, ""


def sample(all_mutations):
    """Evenly over the file, the same at each run."""
    kinds = {}
    for mutation in all_mutations:
        kinds.setdefault(mutation[0], []).append(mutation)
    for name, kind in kinds.items():
        count = min(MORE.get(name, PER_KIND), len(kind))
        yield from (kind[at * len(kind) // count] for at in range(count))


def ask(envoy, text):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        command = [envoy, "--mode", "validate", "--disable-hot-restart", "-l", "critical", "-c", file.name]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).replace(file.name, "FILE")
    said = re.sub(r"^\[[^ ]+ [^ ]+\] (\[[^]]*\] )?", "", said.strip(), flags=re.M)
    said = said.replace("error initializing configuration 'FILE': ", "")
    return " ".join(said.split())[:160]


def main():
    envoy = sys.argv[1] if len(sys.argv) > 1 else "envoy"
    rows = []
    for name, path in FILES.items():
        text = base(path)
        (HERE / f"{name}.yaml").write_text(text)
        said = ask(envoy, text)
        assert said is None, f"{name}: {said}"
        rows += [(name, text, *mutation) for mutation in sample(mutations(text))]

    def record(row):
        name, text, kind, start, end, new = row
        said = ask(envoy, text[:start] + new + text[end:])
        # The test counts bytes.
        at, to = (len(text[:place].encode()) for place in (start, end))
        return {"file": name, "kind": kind, "start": at, "end": to, "new": new, "envoy": said}

    with concurrent.futures.ThreadPoolExecutor(3) as pool, open(HERE / "mutations.jsonl", "w") as out:
        for row in pool.map(record, rows):
            out.write(json.dumps(row) + "\n")
            out.flush()


if __name__ == "__main__":
    main()

"""Reads `cargo metadata`, prints which crates the programs are made of (CycloneDX 1.5)."""

import json
import sys

metadata = json.load(sys.stdin)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}

# Followed from the two programs, without what only tests and builds need.
wanted = [package["id"] for package in packages.values() if package["name"] in ("agent", "restore") and package["source"] is None]
seen = set()
while wanted:
    current = wanted.pop()
    if current in seen:
        continue
    seen.add(current)
    for dependency in nodes[current]["deps"]:
        if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
            wanted.append(dependency["pkg"])

components = []
for package in sorted((packages[name] for name in seen), key=lambda package: (package["name"], package["version"])):
    component = {
        "type": "library",
        "name": package["name"],
        "version": package["version"],
        "purl": f"pkg:cargo/{package['name']}@{package['version']}",
    }
    if package["license"]:
        component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    components.append(component)

json.dump({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}, sys.stdout, indent=1)
print()

"""NOT WINDOWS: the stand-in's hives. They are kept as JSON beside it, and written as real hives at each change."""

import base64
import json
import os

import phony_hive

CONFIG = "/mnt/c/Windows/System32/config"
STORE = "/mnt/c/NOT-WINDOWS/hives.json"
_ROOTS = {"HKLM": "", "HKEY_LOCAL_MACHINE": ""}


def decoded(tree):
    if set(tree) == {"\0bytes"}:
        return base64.b64decode(tree["\0bytes"])
    return {name: decoded(value) if isinstance(value, dict) else value for name, value in tree.items()}


def load():
    with open(STORE) as file:
        return json.load(file)


def save(hives, names):
    with open(STORE + ".new", "w") as file:
        json.dump(hives, file)
    os.replace(STORE + ".new", STORE)
    for name in names:
        with open(f"{CONFIG}/{name}", "r+b") as file:
            file.truncate(0)
            file.write(phony_hive.build(decoded(hives[name]), name))


def place(key):
    """A key as reg takes it: its hive, and the path below. CurrentControlSet is the set that is current."""
    root, _, rest = key.partition("\\")
    if root.upper() not in _ROOTS:
        raise KeyError(key)
    hive, _, path = rest.partition("\\")
    if path.lower().startswith("currentcontrolset\\"):
        current = find(load()["SYSTEM"], "Select")["Current"]
        path = f"ControlSet{current:03}\\" + path.partition("\\")[2]
    return hive.upper(), path


def find(tree, path, *, create=False):
    """The key of a path, without regard to case; None where it is not there."""
    for part in (part for part in path.split("\\") if part):
        name = next((each for each in tree if each.lower() == part.lower()), None)
        if name is None:
            if not create:
                return None
            name = part
            tree[name] = {}
        tree = tree[name]
    return tree


def set_value(hive, path, name, value):
    change(hive, lambda tree: find(tree, path, create=True).update({name: value}))


def delete_value(hive, path, name):
    hives = load()
    if hive not in hives:
        return False
    key = find(hives[hive], path)
    match = next((each for each in key or {} if each.lower() == name.lower()), None)
    if match is None:
        return False
    del key[match]
    save(hives, [hive])
    return True


def value(hive, path, name):
    key = find(load()[hive], path)
    return next((key[each] for each in key or {} if each.lower() == name.lower()), None)


def change(hive, how):
    hives = load()
    how(hives.setdefault(hive, {}))
    save(hives, [hive])

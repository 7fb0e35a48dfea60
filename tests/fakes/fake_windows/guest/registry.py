"""NOT WINDOWS: the stand-in's hives. They are kept as JSON beside it, and written as real hives at each change."""

import base64
import json
import os

import fake_hive

CONFIG = "/mnt/c/Windows/System32/config"
STORE = "/mnt/c/NOT-WINDOWS/hives.json"
_ROOTS = {"HKLM": "", "HKEY_LOCAL_MACHINE": ""}


def decoded(tree):
    if set(tree) == {"\0bytes"}:
        return base64.b64decode(tree["\0bytes"])
    if set(tree) == {"\0raw"}:
        kind, data = tree["\0raw"]
        return fake_hive.Raw(kind, base64.b64decode(data))
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
            file.write(fake_hive.build(decoded(hives[name]), name))


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


# ---- reg ---------------------------------------------------------------------------------------------------------


def reg(parts):
    """reg.exe by Microsoft's reference: what it says; None where the key or the value is not there."""
    verb, key = parts[0].lower(), parts[1]
    options = {
        part.lower(): parts[index + 1] for index, part in enumerate(parts) if part.lower() in ("/v", "/t", "/d")
    }
    hive, path = place(key)
    if verb == "add":
        data = options.get("/d", "")
        number = options.get("/t", "REG_SZ").upper() == "REG_DWORD"
        set_value(hive, path, options["/v"], int(data, 0) if number else data)
        return ""
    if verb == "delete":
        return (
            "" if (delete_value(hive, path, options["/v"]) if "/v" in options else delete_key(hive, path)) else None
        )
    if verb == "copy":
        return "" if copy_key(place(key), place(parts[2])) else None
    assert verb == "query", parts
    found = find(load().get(hive, {}), path)
    if found is None:
        return None
    if "/v" in options:
        found = {name: each for name, each in found.items() if name.lower() == options["/v"].lower()}
        if not found:
            return None
    # a binary value is kept as a tree of one name
    values = [line(name, each) for name, each in found.items() if not isinstance(each, dict)]
    keys = [name for name, each in found.items() if isinstance(each, dict) and set(each) != {"\0bytes"}]
    long = f"HKEY_LOCAL_MACHINE{key[key.index(chr(92)) :]}"
    below = [f"{long}\\{name}" for name in keys] if "/v" not in options else []
    return "\r\n".join(["", key if "/v" in options else long, *values, "", *below, ""])


def line(name, value):
    kind = "REG_DWORD" if isinstance(value, int) else "REG_SZ"
    return f"    {name}    {kind}    {hex(value) if isinstance(value, int) else value}"


def delete_key(hive, path):
    hives = load()
    above, _, name = path.rpartition("\\")
    tree = find(hives.get(hive, {}), above)
    match = next((each for each in tree or {} if each.lower() == name.lower()), None)
    if match is None:
        return False
    del tree[match]
    save(hives, [hive])
    return True


def copy_key(source, target):
    hives = load()
    found = find(hives.get(source[0], {}), source[1])
    if found is None:
        return False
    copied = json.loads(json.dumps(found))
    find(hives[target[0]], target[1], create=True).update(copied)
    save(hives, [target[0]])
    return True

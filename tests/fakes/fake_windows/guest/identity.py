"""NOT WINDOWS: what a machine has of its own, and the accounts that its first boot's answer file asks for.

sysprep /generalize removes the first and keeps the second (Microsoft: "Sysprep (Generalize) a Windows installation").
"""

import base64
import struct
import uuid

import registry

CRYPTOGRAPHY = "Microsoft\\Cryptography"
USERS = "SAM\\Domains\\Account\\Users"
#: The relative id of the first account that is not one of Windows' own.
FIRST = 1000


def specialize():
    """Give the machine an identity of its own; the GUID."""
    guid = str(uuid.uuid4())
    registry.set_value("SOFTWARE", CRYPTOGRAPHY, "MachineGuid", guid)
    return guid


def forget():
    registry.delete_value("SOFTWARE", CRYPTOGRAPHY, "MachineGuid")


def plain(value, plain_text):
    """A password as an answer file has it: the text, or base64 of it with the element's name behind."""
    if plain_text == "true":
        return value
    return base64.b64decode(value).decode("utf-16-le").removesuffix("Password")


def add_account(name):
    """A local account with a password, whose hash is as long as Windows 10's; one that exists stays."""

    def change(tree):
        users = registry.find(tree, USERS)
        names = users["Names"]
        if any(each.lower() == name.lower() for each in names):
            return
        rid = max([FIRST - 1, *(int(key, 16) for key in users if key != "Names")]) + 1
        names[name] = {"": {"\0raw": [rid, ""]}}
        empty = struct.pack("<HHI", 1, 2, 0) + bytes(range(16))
        parts = {0x0C: name.encode("utf-16-le"), 0x9C: empty, 0xA8: empty + b"\xa5" * 32}
        head, data = bytearray(0xCC), b""
        for at, part in parts.items():
            struct.pack_into("<III", head, at, len(data), len(part), 0)
            data += part.ljust(-(-len(part) // 4) * 4, b"\0")
        values = {"F": bytes(80), "V": bytes(head) + data}
        users[f"{rid:08X}"] = {key: {"\0bytes": base64.b64encode(each).decode()} for key, each in values.items()}

    registry.change("SAM", change)

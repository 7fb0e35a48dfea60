"""What Azure would say to a guest, or the site outside. Pure."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.fabric import imds, wireserver
from pipeline.fabric.instance import IMDS, Instance, Request, Response

#: What the fabric says to a guest. Another one is bad weather, for those who want to see what guests make of it.
Answer = Callable[[Instance, Request], Response]


def answer(instance: Instance, request: Request) -> Response:
    """What Azure would say, or the site outside."""
    if instance.site and (request.host, request.port) == (instance.site.address, instance.site.port):
        there = request.method in ("GET", "HEAD") and request.target == instance.site.target
        return Response(200, instance.user_data, "application/octet-stream") if there else Response(404)
    if request.host == IMDS and not instance.provisioned:
        # the agents would take what the metadata service says of the VM for an order to provision it
        return Response(503, drop=True)
    asked = imds.answer if request.host == IMDS else wireserver.answer
    return asked(instance, request) or Response(404, b"", "text/plain")

"""The answers of Azure, or of the site outside, to a guest. Pure."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.fabric import imds, wireserver
from pipeline.fabric.instance import IMDS, Instance, Request, Response

#: The fabric's answers to a guest. Tests replace this function to send faulty answers.
Answer = Callable[[Instance, Request], Response]


def answer(instance: Instance, request: Request) -> Response:
    """The answer of Azure, or of the site outside."""
    if instance.site and (request.host, request.port) == (instance.site.address, instance.site.port):
        there = request.method in ("GET", "HEAD") and request.target == instance.site.target
        return Response(200, instance.user_data, "application/octet-stream") if there else Response(404)
    if request.host == IMDS and not instance.provisioned:
        # the metadata service's description of the VM would make the agents provision it
        return Response(503, drop=True)
    asked = imds.answer if request.host == IMDS else wireserver.answer
    return asked(instance, request) or Response(404, b"", "text/plain")

"""Webhook events: what registries and the Hub send when something changed, read as changes of named things.

An event is a hint. Nothing here asks anybody: bytes and headers go in, a `Delivery` comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from registry.events.artifactory import artifactory
from registry.events.change import Adapter
from registry.events.distribution import distribution
from registry.events.dockerhub import dockerhub
from registry.events.github import github
from registry.events.harbor import harbor
from registry.events.huggingface import huggingface
from registry.events.plain import plain
from registry.events.quay import quay
from registry.events.zot import zot

ADAPTERS: Mapping[str, Adapter] = MappingProxyType(
    {
        "distribution": distribution,
        "harbor": harbor,
        "quay": quay,
        "github": github,
        "dockerhub": dockerhub,
        "zot": zot,
        "artifactory": artifactory,
        "huggingface": huggingface,
        "plain": plain,
    }
)
"""For each kind of sender what reads its requests."""

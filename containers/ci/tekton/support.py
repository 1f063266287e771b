"""What runs need in their namespace: the build file, a volume for the cache, and an account without rights."""

from __future__ import annotations

from containers.ci.tekton.pipeline import key_of
from containers.ci.tekton.plan import Document, Plan


def support(plan: Plan) -> list[Document]:
    """The ConfigMap, the PersistentVolumeClaim and the ServiceAccount."""
    return [_folder(plan), _cache(plan), account(plan, "build", pulls=True)]


def account(plan: Plan, what: str, *, pulls: bool = False) -> Document:
    """A ServiceAccount; one that `pulls` has the login at the registry where the image may lie."""
    login = {"imagePullSecrets": [{"name": plan.named("registry")}]} if pulls else {}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": plan.meta(plan.named(what)), **login}


def _folder(plan: Plan) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": plan.meta(plan.named("build")),
        "data": {key_of(path): text for path, text in plan.texts.items()},
    }


def _cache(plan: Plan) -> Document:
    kept = {"storageClassName": plan.claim.storage_class} if plan.claim.storage_class else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": plan.meta(plan.named("cache")),
        "spec": {"accessModes": ["ReadWriteOnce"], **kept, "resources": {"requests": {"storage": plan.claim.cache}}},
    }

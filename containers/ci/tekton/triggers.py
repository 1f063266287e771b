"""What starts a run when something changes that the build is made of: a model on the Hub, an image in a registry.

An event is a hint: a run asks the source itself what it is now, and publishes nothing new if nothing is. Filters are
in CEL with the functions of Tekton's interceptor. https://tekton.dev/docs/triggers/cel_expressions/
"""

from __future__ import annotations

from containers.ci.tekton.pipeline import pipeline_run
from containers.ci.tekton.plan import Document, Plan, Watched
from containers.ci.tekton.support import account

CAUSES = {
    "huggingface": "$(body.repo.name)@$(body.repo.headSha)",
    "distribution": "$(body.events[0].target.repository)@$(body.events[0].target.digest)",
    "harbor": "$(body.event_data.repository.repo_full_name)@$(body.event_data.resources[0].digest)",
}
"""What is told of an event, for each kind of sender."""

SENDERS = {"huggingface": ("huggingface",), "registry": ("distribution", "harbor")}
"""Who tells of changes of what is watched."""

_API = "triggers.tekton.dev/v1beta1"
_RBAC = "rbac.authorization.k8s.io"


def triggers(plan: Plan, bundle: str = "") -> list[Document]:
    """The EventListener and what it needs; nothing if nothing that is watched can change."""
    if not plan.watched:
        return []
    senders = dict.fromkeys(sender for watched in plan.watched for sender in SENDERS[watched.kind])
    return [
        _listener(plan),
        *(_binding(plan, sender) for sender in senders),
        _template(plan, bundle),
        account(plan, "triggers"),
        *_rights(plan),
    ]


def condition(plan: Plan, watched: Watched, sender: str) -> str:
    """The CEL expression that is true for an event about what is watched, from a sender who knows the secret."""
    secret = plan.named("webhooks")
    if sender == "huggingface":
        refs = f"['refs/heads/{watched.tag}', 'refs/tags/{watched.tag}']"
        return _all(
            f"header.canonical('X-Webhook-Secret').compareSecret('huggingface', '{secret}')",
            "body.event.scope.startsWith('repo.content')",
            "body.repo.type == 'model'",
            f"body.repo.name == '{watched.name}'",
            f"body.updatedRefs.exists(r, r.ref in {refs} && r.newSha != null)",
        )
    login = f"header.canonical('Authorization').compareSecret('registry', '{secret}')"
    if sender == "distribution":
        about = f"e.target.repository == '{watched.name}' && has(e.target.tag) && e.target.tag == '{watched.tag}'"
        return _all(login, f"body.events.exists(e, e.action == 'push' && {about})")
    return _all(
        login,
        "body.type == 'PUSH_ARTIFACT'",
        f"body.event_data.repository.repo_full_name == '{watched.name}'",
        f"body.event_data.resources.exists(r, r.tag == '{watched.tag}')",
    )


def _all(*terms: str) -> str:
    return " &&\n".join(terms) + "\n"


def _listener(plan: Plan) -> Document:
    return {
        "apiVersion": _API,
        "kind": "EventListener",
        "metadata": plan.meta(plan.name),
        "spec": {
            "serviceAccountName": plan.named("triggers"),
            "triggers": [
                _trigger(plan, watched, sender, f"{sender}-{at}")
                for at, watched in enumerate(plan.watched)
                for sender in SENDERS[watched.kind]
            ],
        },
    }


def _trigger(plan: Plan, watched: Watched, sender: str, name: str) -> Document:
    asked = {"name": "filter", "value": condition(plan, watched, sender)}
    return {
        "name": name,
        "interceptors": [{"name": f"the {watched.role} has changed", "ref": {"name": "cel"}, "params": [asked]}],
        "bindings": [{"ref": plan.named(sender)}],
        "template": {"ref": plan.name},
    }


def _binding(plan: Plan, sender: str) -> Document:
    return {
        "apiVersion": _API,
        "kind": "TriggerBinding",
        "metadata": plan.meta(plan.named(sender)),
        "spec": {"params": [{"name": "cause", "value": CAUSES[sender]}]},
    }


def _template(plan: Plan, bundle: str) -> Document:
    return {
        "apiVersion": _API,
        "kind": "TriggerTemplate",
        "metadata": plan.meta(plan.name),
        "spec": {
            "params": [{"name": "cause", "description": "What has changed.", "default": "unknown"}],
            "resourcetemplates": [pipeline_run(plan, bundle, annotations={"packer/cause": "$(tt.params.cause)"})],
        },
    }


def _rights(plan: Plan) -> list[Document]:
    """What every listener needs, as Tekton Triggers names it."""
    subject = {"kind": "ServiceAccount", "name": plan.named("triggers"), "namespace": plan.namespace}
    bindings = (("RoleBinding", "roles"), ("ClusterRoleBinding", "clusterroles"))
    found = []
    for kind, roles in bindings:
        meta = plan.meta(
            plan.named("triggers") if kind == "RoleBinding" else f"{plan.namespace}-{plan.named('triggers')}"
        )
        if kind == "ClusterRoleBinding":
            del meta["namespace"]
        role = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": f"tekton-triggers-eventlistener-{roles}"}
        found.append(
            {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": meta, "subjects": [subject], "roleRef": role}
        )
    return found

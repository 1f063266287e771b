"""Rules about code that comes with a model and runs where it is used."""

from __future__ import annotations

from formats.findings import Rule

_CODE = "https://huggingface.co/docs/transformers/custom_models (trust_remote_code)"
_TEMPLATE = (
    "https://huggingface.co/docs/transformers/chat_templating, rendered by Jinja's ImmutableSandboxedEnvironment"
)
_ALLOW = "read the code, then allow it (validate: {remote_code: allow}), or leave the files out with --include"
_AUTHOR = "do not use this template; take the one of the model that this one was made from"

AUTO_MAP = Rule(
    "code-auto-map",
    "it makes programs import classes from Python files of a model",
    "With trust_remote_code, transformers downloads the files that auto_map names and runs them. A name of the form "
    "repository--module.Class comes from another repository, whose content may change after this one was checked.",
    _CODE,
    _ALLOW,
)

PIPELINES = Rule(
    "code-custom-pipelines",
    "it makes programs import pipelines from Python files of a model",
    "With trust_remote_code, transformers' pipeline() imports the class under `impl` of each of custom_pipelines.",
    "https://huggingface.co/docs/transformers/add_new_pipeline",
    _ALLOW,
)

FILE = Rule(
    "code-file",
    "it is executable code",
    "Weights need no code: a Python file runs with trust_remote_code, a shared library when something loads it. What "
    "is published is mounted next to the weights, where programs look for both.",
    _CODE,
    _ALLOW,
)

UNREAD = Rule(
    "code-config-unread",
    "it is too large to look for code in it",
    "Stricter than other programs on purpose: a configuration of more than 6 MiB, or of more values than any tokenizer "
    "has, is not parsed, so that a hostile one costs neither time nor memory.",
    _CODE,
    "ask the author what the file is, or leave it out with --include",
)

TEMPLATE_SYNTAX = Rule(
    "code-template-syntax",
    "its chat template is no Jinja template that transformers accepts",
    "A server that loads the model fails at the first conversation, or shows the model something else than it was "
    "trained on.",
    _TEMPLATE,
    "repair the template, or take the one of the model that this one was made from",
)

TEMPLATE_UNSAFE = Rule(
    "code-template-unsafe",
    "its chat template reaches for what Jinja's sandbox refuses",
    "A chat template is a program that runs where the model is served. One that asks for attributes with underscores "
    "breaks out of programs that render it without a sandbox (CVE-2024-34359), and fails in all others.",
    _TEMPLATE + "; https://jinja.palletsprojects.com/en/stable/sandbox/",
    _AUTHOR,
)

TEMPLATE_ENDLESS = Rule(
    "code-template-endless",
    "its chat template takes too long, or too much memory, to be rendered",
    "Stricter than other programs on purpose: two short conversations are rendered in a process that may use two "
    "seconds and 64 MiB. A template that needs more stops the server of the model at any conversation.",
    _TEMPLATE,
    _AUTHOR,
)

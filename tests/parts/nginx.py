"""nginx in front of a registry: limits on bodies and on time, as many registries have."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.parts.servers import Server, reserved_port, serving

_CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr info;
events {{}}
http {{
    access_log {folder}/access;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address};
        client_max_body_size {max_body};
        client_body_timeout {body_timeout};
        {more}
        location / {{
            proxy_pass http://{target};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_read_timeout {read_timeout};
            proxy_send_timeout {send_timeout};
            proxy_request_buffering {buffering};
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(
    folder: Path,
    target: str,
    *,
    max_body: str = "0",
    body_timeout: str = "2s",
    read_timeout: str = "2s",
    send_timeout: str = "2s",
    buffering: bool = True,
    more: str = "",
) -> Iterator[Server]:
    """nginx before `target`, host and port, with all that it writes in `folder`.

    Above `max_body` ("1m"; "0" is no bound) it answers 413. `body_timeout` is the time between two pieces of a request,
    `read_timeout` and `send_timeout` are those towards the target. It takes whole requests before it passes them on,
    unless `buffering` is off. `more` is what else its server block says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    program = "/usr/sbin/nginx"  # which the path of a user may lack
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        config.write_text(
            _CONFIG.format(
                user="" if os.getuid() else "user root;",
                folder=folder,
                address=address,
                target=target,
                max_body=max_body,
                body_timeout=body_timeout,
                read_timeout=read_timeout,
                send_timeout=send_timeout,
                buffering="on" if buffering else "off",
                more=more,
            )
        )
        with serving([program, "-p", folder, "-c", config, "-e", "stderr"], address, "/", folder / "log") as server:
            yield server

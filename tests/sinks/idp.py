"""Starts scim2-server with storage that outlives a kill: idp.py JOURNAL PORT TOKEN [INTROSPECTION CLIENT SECRET]

TOKEN is a bearer token it takes. With the other three it takes those, too, that an OAuth server says are active (RFC 7662). The storage of the command
`scim2-server` is in memory alone; here each change is also a line of JOURNAL, which is read when it starts.
"""

import base64
import json
import pathlib
import sys
import threading
import urllib.parse
import urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server

from scim2_models import ScimProvider, UnauthorizedException
from scim2_server.memory import InMemoryStorage
from scim2_server.service import ScimService
from scim2_server.testserver.application import BEARER_TOKEN_SCHEME, BearerTokenApplication
from scim2_server.testserver.cli import ThreadingWSGIServer
from scim2_server.utils import load_default_resource_types, load_default_schemas, load_default_service_provider_config

journal, port, token, introspection = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
config = load_default_service_provider_config()
config.authentication_schemes = [BEARER_TOKEN_SCHEME]
provider = ScimProvider.from_discovery(load_default_schemas().values(), load_default_resource_types().values(), config=config)
models = {"User": provider.model_for_endpoint("/Users"), "Group": provider.model_for_endpoint("/Groups")}


class JournalStorage(InMemoryStorage):
    lines = None

    def load(self, path):
        path.touch()
        data = path.read_bytes()
        # What a database does after a crash: a line that was cut off by the kill was never acknowledged, and goes.
        whole = data[: data.rfind(b"\n") + 1]
        path.write_bytes(whole)
        kept = {}
        for line in whole.splitlines():
            entry = json.loads(line)
            kept[tuple(entry["key"])] = entry["resource"]
        self.resources = [models[key[0]].model_validate(resource) for key, resource in kept.items() if resource]
        for _ in range(whole.count(b"\n")):
            self.next_version()
        self.lines = path.open("a")

    def note(self, key, resource):
        if self.lines:
            self.lines.write(json.dumps({"key": key, "resource": resource}) + "\n")
            self.lines.flush()

    def _store(self, resource, values):
        super()._store(resource, values)
        self.note([resource.meta.resource_type, resource.id], json.loads(resource.model_dump_json(by_alias=True, exclude_none=True)))

    def delete(self, resource_type, resource_id, *, expected_version=None):
        with self.lock:
            super().delete(resource_type, resource_id, expected_version=expected_version)
            self.note([resource_type.name, resource_id], None)


class Application(BearerTokenApplication):
    """Asks the OAuth server about each token that is not the configured one."""

    def check_auth(self, request):
        try:
            super().check_auth(request)
        except UnauthorizedException:
            if not introspection or not is_active((request.header("Authorization") or "").partition(" ")[2]):
                raise


def is_active(access_token):
    url, client, secret = introspection
    login = base64.b64encode(f"{client}:{secret}".encode()).decode()
    form = urllib.parse.urlencode({"token": access_token}).encode()
    request = urllib.request.Request(url, form, {"Authorization": f"Basic {login}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer).get("active") is True
    except OSError:
        return False


class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


class Server(ThreadingWSGIServer):
    request_queue_size = 128


storage = JournalStorage()
storage.lock = threading.RLock()
storage.load(journal)
application = Application(storage, provider, service=ScimService(provider, secret="a secret of the tests'" * 2), bearer_tokens=[token])
make_server("127.0.0.1", port, application, server_class=Server, handler_class=Handler).serve_forever()

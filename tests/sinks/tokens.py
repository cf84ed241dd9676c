"""Starts Canaille as an OAuth 2.0 server with one client, in memory: tokens.py PORT CLIENT SECRET

Token endpoint: /oauth/token (client credentials). It says at /oauth/introspect whether a token is active.
"""

import logging
import sys

import canaille
from canaille.app import models
from canaille.backends import Backend
from werkzeug.serving import WSGIRequestHandler, make_server

logging.disable(logging.CRITICAL)
port, client_id, client_secret = int(sys.argv[1]), sys.argv[2], sys.argv[3]
app = canaille.create_app(
    {
        "SECRET_KEY": "a secret of the tests'",
        "SERVER_NAME": f"127.0.0.1:{port}",
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"DATABASE": "memory", "LOGGING": {"version": 1, "disable_existing_loggers": False}},
        "CANAILLE_OIDC": {},
    }
)
with app.app_context():
    client = models.Client(
        client_id=client_id,
        client_secret=client_secret,
        client_name="Sluice",
        grant_types=["client_credentials"],
        token_endpoint_auth_method="client_secret_basic",
        scope=["scim"],
    )
    Backend.instance.save(client)
    # Without this it says of the client's own tokens that they are not active.
    client.audience = [client]
    Backend.instance.save(client)


class Handler(WSGIRequestHandler):
    def log(self, *_):
        pass


make_server("127.0.0.1", port, app, threaded=True, request_handler=Handler).serve_forever()

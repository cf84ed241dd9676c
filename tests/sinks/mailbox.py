"""A mail server that keeps its mails in a file: mailbox.py FOLDER PORT [starttls|implicit]. Log-in, where TLS is on: sluice / mail-s3cret.

Each line of mails.ndjson is one mail: its envelope, what Python's own parser reads in it, and all of it. Addresses are refused by their
name: those that begin with a code, such as 550-someone@… or 550-5.7.1-someone@…, are answered with it; with 450-once-…, the first time
only. A subject with 'refuse 554', 'refuse 550 5.4.5' or 'refuse 452 once' in it does the same to the mail as a whole, and the sender
stranger@… is answered 550."""

import asyncio
import email
import email.policy
import json
import pathlib
import re
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
tls = sys.argv[3] if len(sys.argv) > 3 else None
mails = folder / "mails.ndjson"
# What was cut off by a kill was never acknowledged, and goes.
if mails.exists():
    data = mails.read_bytes()
    mails.write_bytes(data[: data.rfind(b"\n") + 1])
met = set()


def refusal(text, key):
    code = re.match(r"(\d{3})(?:[- ](\d\.\d+\.\d+))?(?:[- ](once))?", text)
    if not code or (code[3] and key in met):
        return None
    met.add(key)
    return f"{code[1]} {code[2] or code[1][0] + '.0.0'} <{key}> is not wanted"


class Handler:
    async def handle_MAIL(self, server, session, envelope, address, options):
        if address.startswith("stranger@"):
            return "550 5.7.1 not your address"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = refusal(address, address)
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        asked = str(mail["subject"]).partition("refuse ")[2]
        answer = refusal(asked, mail["message-id"])
        if answer:
            return answer
        line = {
            "port": session.peer[1],
            "encrypted": session.ssl is not None or tls == "implicit",
            "login": bool(session.authenticated),
            "mail_from": envelope.mail_from,
            "rcpt_to": envelope.rcpt_tos,
            "raw": envelope.content.decode("ascii"),
            "defects": [str(defect) for defect in mail.defects],
            "headers": {name.lower(): str(value) for name, value in mail.items()},
            "date": mail["date"].datetime.isoformat(),
            "type": mail.get_content_type(),
            "text": mail.get_content(),
        }
        with mails.open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"sluice", b"mail-s3cret"), handled=False)


context = None
if tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")


def session():
    options = {}
    if tls:
        options = {"authenticator": authenticate, "auth_required": True, "auth_require_tls": tls == "starttls"}
    if tls == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    return SMTP(Handler(), hostname="mail.example", loop=loop, **options)


loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(loop.create_server(session, "127.0.0.1", port, ssl=context if tls == "implicit" else None))
loop.run_forever()

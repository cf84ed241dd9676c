"""Prints the vectors as JSON; see make.sh. The argument is the folder with node_modules and accept.mjs."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from datetime import datetime, timezone

import slack_sdk
import stripe
from slack_sdk.signature import Clock, SignatureVerifier
from standardwebhooks.webhooks import Webhook

cases = []


def case(source, by, secret, headers, body, expects):
    """`expects`: type, id, company and user as Sluice finds them, or a part of the reason for the quarantine."""
    cases.append({"source": source, "by": by, "secret": secret, "headers": headers, "body": body, **expects})


def found(type, id, company=None, user=None):
    return {"type": type, "id": id, "company": company, "user": user}


# Standard Webhooks: the first is the one in the tests of the project's own libraries. Signed here, compared with what is published.
published = {
    "msg_p5jXN8AQM9LWM0D4loKWxJek": ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330, '{"test": 2432232314}',
                                    "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    "msg_loFOjxBNrRLzqYUf": ("whsec_plJ3nmyCDGBKInavdOK15jsl", 1731705121, '{"event_type":"ping","data":{"success":true}}',
                             "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="),
}
for id, (secret, at, body, signature) in published.items():
    assert Webhook(secret).sign(id, datetime.fromtimestamp(at, timezone.utc), body) == signature
    headers = {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signature}
    case("standard-webhooks", "published; standardwebhooks 1.1.0 signs the same", secret, headers, body, {"held": "no event type"})

secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
body = '{"type":"contact.created","timestamp":"2022-11-03T20:26:10.344522Z","data":{"id":"1f81eb52-5198-4599-803e-771906343485"}}'
sign = lambda secret: Webhook(secret).sign("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", datetime.fromtimestamp(1674087231, timezone.utc), body)
headers = {
    "webhook-id": "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",
    "webhook-timestamp": "1674087231",
    # While a secret is rotated: the other one's first, and an asymmetric one between them.
    "webhook-signature": f"{sign('whsec_plJ3nmyCDGBKInavdOK15jsl')} v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg== {sign(secret)}",
}
case("standard-webhooks", "signed by standardwebhooks 1.1.0", secret, headers, body, found("contact.created", headers["webhook-id"]))

# GitHub: "Validating webhook deliveries" in its documentation publishes the first.
headers = {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
           "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "x-github-event": "issues"}
case("github", "published by GitHub", "It's a Secret to Everybody", headers, "Hello, World!", {"held": "not JSON"})


def node(*args):
    output = subprocess.run(["node", "accept.mjs", *args], cwd=sys.argv[1], check=True, capture_output=True, text=True)
    return output.stdout.strip()


body = json.dumps({"ref": "refs/heads/main", "before": "a" * 40, "after": "b" * 40, "repository": {"id": 1296269, "full_name": "octo-org/hello-world"},
                   "organization": {"login": "octo-org"}, "sender": {"login": "Codertocat"}, "head_commit": {"message": "Ünïcode 🐙"}}, ensure_ascii=False)
headers = {"x-hub-signature-256": node("github", "It's a Secret to Everybody", body),
           "x-github-delivery": "0b989ba4-242f-11e5-81e1-c7b6966d2516", "x-github-event": "push"}
case("github", "signed by @octokit/webhooks-methods 6.0.0", "It's a Secret to Everybody", headers, body,
     found("push", headers["x-github-delivery"], "octo-org", "octo-org/hello-world"))

# Stripe.
assert stripe.VERSION == "16.1.0"
secret = "whsec_Gk0M7yYwzJSnHiWWTpsQ8kq5"
body = json.dumps({"id": "evt_1NG8Du2eZvKYlo2CUI79vXWy", "object": "event", "account": "acct_1032D82eZvKYlo2C", "created": 1686089970, "livemode": False,
                   "type": "invoice.paid", "data": {"object": {"id": "in_1MtHbELkdIwHu7ixl4OzzPMv", "object": "invoice", "customer": "cus_NeZwdNtLEOXuvB"}}}, indent=2)
header = stripe.WebhookSignature.generate_signature_header(body, secret, timestamp=1686089970)
found_in_it = found("invoice.paid", "evt_1NG8Du2eZvKYlo2CUI79vXWy", "acct_1032D82eZvKYlo2C", "cus_NeZwdNtLEOXuvB")
assert stripe.WebhookSignature.verify_header(body, header, secret)
case("stripe", "signed by stripe 16.1.0 (PyPI)", secret, {"stripe-signature": header}, body, found_in_it)
old = stripe.WebhookSignature.generate_signature_header(body, "whsec_old", timestamp=1686089970).split(",")[1]
header = f"t=1686089970,{old},{header.split(',')[1]},v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"
assert stripe.WebhookSignature.verify_header(body, header, secret)
case("stripe", "accepted by stripe 16.1.0 (PyPI)", secret, {"stripe-signature": header}, body, found_in_it)

# Shopify: no library signs, but its own one accepts this.
secret = "hush"
body = '{"id":820982911946154508,"admin_graphql_api_id":"gid:\\/\\/shopify\\/Order\\/820982911946154508","email":"jon@example.com","total_price":"398.00"}'
signature = base64.b64encode(hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest()).decode()
headers = {"x-shopify-hmac-sha256": signature, "x-shopify-topic": "orders/create", "x-shopify-shop-domain": "johns-apparel.myshopify.com",
           "x-shopify-webhook-id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043", "x-shopify-api-version": "2026-07"}
assert node("shopify", secret, body, json.dumps(headers)) == "accepted"
assert node("shopify", secret, body + " ", json.dumps(headers)) == "refused"
case("shopify", "accepted by @shopify/shopify-api 13.1.0", secret, headers, body,
     found("orders/create", headers["x-shopify-webhook-id"], "johns-apparel.myshopify.com", "gid://shopify/Order/820982911946154508"))

# Slack: "Verifying requests from Slack" in its documentation publishes the first, of a slash command.
assert slack_sdk.version.__version__ == "3.47.0"
secret = "8f742231b10e8888abcd99yyyzzz85a5"
body = ("token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA"
        "&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554"
        "%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c")
signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
headers = {"x-slack-signature": signature, "x-slack-request-timestamp": "1531420618"}


class Then(Clock):
    def now(self):
        return 1531420618.0


verifier = SignatureVerifier(secret, Then())
assert verifier.is_valid_request(body, headers)
case("slack", "published by Slack; slack_sdk 3.47.0 accepts it", secret, headers, body, {"held": "not JSON"})
for body, expects in [
    ('{"token":"z","team_id":"T123ABC456","api_app_id":"A123ABC456","event":{"type":"message","channel":"C123ABC456","user":"U123ABC456","text":"Live long"},'
     '"type":"event_callback","event_id":"Ev123ABC456","event_time":1531420618}', found("message", "Ev123ABC456", "T123ABC456", "U123ABC456")),
    ('{"token":"Jhj5dZrVaK7ZwHHjRyZWjbDl","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}',
     {"held": "no event type", "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}),
]:
    headers = {"x-slack-signature": verifier.generate_signature(timestamp="1531420618", body=body), "x-slack-request-timestamp": "1531420618"}
    case("slack", "signed by slack_sdk 3.47.0", secret, headers, body, expects)

json.dump(cases, sys.stdout, indent=2, ensure_ascii=False)
print()

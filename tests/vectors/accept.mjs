// Signs as GitHub's own library does, or asks Shopify's whether it accepts a request: see make.py.
import { sign } from "@octokit/webhooks-methods";
import "@shopify/shopify-api/adapters/node";
import { shopifyApi, ApiVersion } from "@shopify/shopify-api";

const [vendor, secret, body, headers] = process.argv.slice(2);
if (vendor === "github") {
  console.log(await sign(secret, body));
} else {
  const shopify = shopifyApi({
    apiKey: "key",
    apiSecretKey: secret,
    scopes: [],
    hostName: "localhost",
    apiVersion: Object.values(ApiVersion)[0],
    isEmbeddedApp: false,
    logger: { level: 0 },
  });
  const rawRequest = { method: "POST", url: "/", headers: JSON.parse(headers) };
  const { valid } = await shopify.webhooks.validate({ rawBody: body, rawRequest, rawResponse: {} });
  console.log(valid ? "accepted" : "refused");
}

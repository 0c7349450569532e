// Is a callback the proxy's? In Node 16 or newer, for any framework.

const { createHmac, timingSafeEqual } = require("node:crypto");

const TOLERANCE = 300; // seconds that a callback may be old, or the clocks may differ

// `headers` by lower-case name, `body` a Buffer as it came, `keys` like whsec_...: one, or two while they change.
function verified(headers, body, ...keys) {
  const id = headers["webhook-id"] || "";
  const timestamp = headers["webhook-timestamp"] || "";
  if (!id || !/^[0-9]+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE) {
    return false;
  }
  const found = (headers["webhook-signature"] || "").split(" ").map((one) => Buffer.from(one));
  return keys.some((key) => {
    const secret = Buffer.from(key.slice("whsec_".length), "base64");
    const digest = createHmac("sha256", secret).update(`${id}.${timestamp}.`).update(body).digest("base64");
    const expected = Buffer.from(`v1,${digest}`);
    return found.some((one) => one.length === expected.length && timingSafeEqual(one, expected));
  });
}

module.exports = { verified };

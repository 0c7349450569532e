<?php
// Is a callback the proxy's? In PHP 7.4 or newer, for any framework.

const TOLERANCE = 300; // seconds that a callback may be old, or the clocks may differ

/** $headers by lower-case name, $body as it came (php://input), $keys like whsec_...: one, or two while they change. */
function verified(array $headers, string $body, string ...$keys): bool
{
    $id = $headers['webhook-id'] ?? '';
    $timestamp = $headers['webhook-timestamp'] ?? '';
    if ($id === '' || !preg_match('/^[0-9]+\z/', $timestamp) || abs(time() - (int) $timestamp) > TOLERANCE) {
        return false;
    }
    foreach ($keys as $key) {
        $secret = base64_decode(substr($key, strlen('whsec_')));
        $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $secret, true));
        foreach (explode(' ', $headers['webhook-signature'] ?? '') as $found) {
            if (hash_equals($expected, $found)) {
                return true;
            }
        }
    }
    return false;
}

# Is a callback the proxy's? In Ruby 2.7 or newer, for any framework.

require "openssl"

TOLERANCE = 300 # seconds that a callback may be old, or the clocks may differ

# `headers` by lower-case name, `body` as it came, `keys` like whsec_...: one, or two while they change.
def verified(headers, body, *keys)
  id, timestamp = headers.fetch("webhook-id", ""), headers.fetch("webhook-timestamp", "")
  return false if id.empty? || !timestamp.match?(/\A[0-9]+\z/)
  return false if (Time.now.to_i - timestamp.to_i).abs > TOLERANCE

  found = headers.fetch("webhook-signature", "").split
  keys.any? do |key|
    secret = key.delete_prefix("whsec_").unpack1("m")
    digest = OpenSSL::HMAC.digest("SHA256", secret, "#{id}.#{timestamp}.".b + body.b)
    expected = "v1," + [digest].pack("m0")
    found.any? { |one| one.bytesize == expected.bytesize && OpenSSL.fixed_length_secure_compare(one, expected) }
  end
end

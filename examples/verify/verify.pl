# Is a callback the proxy's? In Perl 5.10 or newer, with what comes with it, for any framework.

use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use MIME::Base64 qw(decode_base64 encode_base64);

use constant TOLERANCE => 300;    # seconds that a callback may be old, or the clocks may differ

# \%headers by lower-case name, $body as it came (bytes), @keys like whsec_...: one, or two while they change.
sub verified {
    my ($headers, $body, @keys) = @_;
    my ($id, $timestamp) = map { $headers->{$_} // '' } qw(webhook-id webhook-timestamp);
    return 0 if $id eq '' || $timestamp !~ /\A[0-9]+\z/ || abs(time - $timestamp) > TOLERANCE;
    for my $key (@keys) {
        my $secret = decode_base64(substr $key, length 'whsec_');
        my $expected = 'v1,' . encode_base64(hmac_sha256("$id.$timestamp.$body", $secret), '');
        for my $found (split ' ', $headers->{'webhook-signature'} // '') {
            return 1 if same($expected, $found);
        }
    }
    return 0;
}

# Are two texts equal? It takes as long wherever they differ.
sub same {
    my ($one, $other) = @_;
    return 0 if length $one != length $other;
    my $difference = 0;
    $difference |= ord(substr $one, $_, 1) ^ ord(substr $other, $_, 1) for 0 .. length($one) - 1;
    return $difference == 0;
}

1;

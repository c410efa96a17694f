//! The few bits of URL syntax that the server, the client and the command line share.

use std::fmt::Write as _;

/// Encodes text for one segment of a path or one value of a query (RFC 3986, 2.3).
pub(crate) fn percent_encode(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Checks `host:port`, as users write addresses: a name, an IPv4 address or a bracketed IPv6 address, and a port.
pub(crate) fn host_and_port(text: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("`{text}` is no address: write host:port, such as 127.0.0.1:7001");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)),
    };
    if valid { Ok((host, port)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_unreserved_is_encoded() {
        assert_eq!(percent_encode("a/b ü%?~".as_bytes()), "a%2Fb%20%C3%BC%25%3F~");
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(host_and_port("127.0.0.1:7001"), Ok(("127.0.0.1", 7001)));
        assert_eq!(host_and_port("[::1]:0"), Ok(("[::1]", 0)));
        assert_eq!(host_and_port("db-1.example.org:80"), Ok(("db-1.example.org", 80)));
        for wrong in
            ["", "7001", ":7001", "host", "host:", "host:99999", "::1:7001", "a b:1", "http://a:1", "a/b:1"]
        {
            assert!(host_and_port(wrong).is_err(), "{wrong}");
        }
    }
}

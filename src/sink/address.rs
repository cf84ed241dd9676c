//! Which addresses a sink may reach: public ones, and the ranges that its config allows. Pure.
//!
//! A sink's URL decides where this process opens connections from inside its network, so a mistaken or hostile one must not
//! turn it into a way to the cloud's metadata service, to the database or to loopback. Names are no protection: what
//! counts is each address that a name resolves to, at the moment of connecting.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Judges addresses before they are connected to. One per sink.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    allow: Vec<IpNet>,
}

/// An address that a sink may not reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {kind}, which a sink may not reach by default; if it is meant to, add \"{range}\" to the sink's `allow`")]
pub struct Refused {
    pub address: IpAddr,
    /// What kind of address it is, with its article.
    pub kind: &'static str,
    /// The range that `allow` would have to hold.
    pub range: IpNet,
}

impl AddressPolicy {
    /// Public addresses, and those in `allow`.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow }
    }

    /// Whether a connection to this address may be opened. An IPv6 address that only carries an IPv4 address is judged by what it carries.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        if self.allows(address) {
            return Ok(());
        }
        let refused = match address {
            IpAddr::V4(v4) => not_public_v4(v4),
            IpAddr::V6(v6) => match embedded_v4(v6) {
                [None, None] => not_public_v6(v6),
                carried => carried.into_iter().flatten().filter(|&v4| !self.allows(v4.into())).find_map(not_public_v4),
            },
        };
        refused.map_or(Ok(()), |(range, kind)| Err(Refused { address, kind, range }))
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|range| range.contains(&address))
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<(IpNet, &'static str)> {
    NOT_PUBLIC_V4.iter().find(|(range, _)| range.contains(&address)).map(|&(range, kind)| (range.into(), kind))
}

fn not_public_v6(address: Ipv6Addr) -> Option<(IpNet, &'static str)> {
    if let Some(&(range, kind)) = NOT_PUBLIC_V6.iter().find(|(range, _)| range.contains(&address)) {
        return Some((range.into(), kind));
    }
    // Everything else that IANA has not given out as global unicast is refused as well, whatever it will mean one day.
    (!GLOBAL_UNICAST.contains(&address)).then(|| (IpNet::from(IpAddr::V6(address)), "an address outside the public internet"))
}

/// The IPv4 addresses that a packet to this address may end up at; a Teredo address names two.
fn embedded_v4(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let [.., a, b, c, d] = address.octets();
    let last = Ipv4Addr::new(a, b, c, d);
    let middle = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        // Unspecified and loopback: they carry nothing, though they look like IPv4-compatible ones.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // IPv4-compatible, IPv4-mapped, IPv4-translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0, _, _] | [0, 0, 0, 0, 0, 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            [Some(last), None]
        }
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [Some(middle(high, low)), None],
        // Teredo (RFC 4380): the server, and the client with its bits inverted.
        [0x2001, 0, high, low, ..] => [Some(middle(high, low)), Some(Ipv4Addr::from(!u32::from(last)))],
        _ => [None, None],
    }
}

const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0], 3);

/// From IANA's registry of special-purpose IPv4 addresses, and one that a cloud keeps for itself.
const NOT_PUBLIC_V4: [(Ipv4Net, &str); 17] = [
    (v4([0, 0, 0, 0], 8), "an unspecified address"),
    (v4([10, 0, 0, 0], 8), "a private address"),
    (v4([100, 64, 0, 0], 10), "a carrier's shared address"),
    (v4([127, 0, 0, 0], 8), "a loopback address"),
    (v4([168, 63, 129, 16], 32), "Azure's platform address"),
    (v4([169, 254, 0, 0], 16), "a link-local address"),
    (v4([172, 16, 0, 0], 12), "a private address"),
    (v4([192, 0, 0, 0], 24), "an address kept for protocols"),
    (v4([192, 0, 2, 0], 24), "a documentation address"),
    (v4([192, 88, 99, 0], 24), "a 6to4 relay's address"),
    (v4([192, 168, 0, 0], 16), "a private address"),
    (v4([198, 18, 0, 0], 15), "a benchmarking address"),
    (v4([198, 51, 100, 0], 24), "a documentation address"),
    (v4([203, 0, 113, 0], 24), "a documentation address"),
    (v4([224, 0, 0, 0], 4), "a multicast address"),
    (v4([255, 255, 255, 255], 32), "the broadcast address"),
    (v4([240, 0, 0, 0], 4), "a reserved address"),
];

/// From IANA's registry of special-purpose IPv6 addresses: those with a name of their own.
const NOT_PUBLIC_V6: [(Ipv6Net, &str); 12] = [
    (v6([0; 4], 128), "an unspecified address"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "a loopback address"),
    (v6([0x64, 0xff9b, 1, 0], 48), "a private address"),
    (v6([0x100, 0, 0, 0], 64), "a discard-only address"),
    (v6([0x2001, 0, 0, 0], 23), "an address kept for protocols"),
    (v6([0x2001, 0xdb8, 0, 0], 32), "a documentation address"),
    (v6([0x3fff, 0, 0, 0], 20), "a documentation address"),
    (v6([0x5f00, 0, 0, 0], 16), "an address kept for protocols"),
    (v6([0xfc00, 0, 0, 0], 7), "a private address"),
    (v6([0xfe80, 0, 0, 0], 10), "a link-local address"),
    (v6([0xfec0, 0, 0, 0], 10), "a private address"),
    (v6([0xff00, 0, 0, 0], 8), "a multicast address"),
];

const fn v4([a, b, c, d]: [u8; 4], prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len)
}

const fn v6([a, b, c, d]: [u16; 4], prefix_len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(allow: &[&str], address: &str) -> Result<(), Refused> {
        AddressPolicy::new(allow.iter().map(|range| range.parse().unwrap()).collect()).check(address.parse().unwrap())
    }

    /// First and last of every refused IPv4 range, and the public neighbours on both sides where there are any.
    const RANGES_V4: [(&str, &str, Option<&str>, Option<&str>); 16] = [
        ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0")),
        ("10.0.0.0", "10.255.255.255", Some("9.255.255.255"), Some("11.0.0.0")),
        ("100.64.0.0", "100.127.255.255", Some("100.63.255.255"), Some("100.128.0.0")),
        ("127.0.0.0", "127.255.255.255", Some("126.255.255.255"), Some("128.0.0.0")),
        ("168.63.129.16", "168.63.129.16", Some("168.63.129.15"), Some("168.63.129.17")),
        ("169.254.0.0", "169.254.255.255", Some("169.253.255.255"), Some("169.255.0.0")),
        ("172.16.0.0", "172.31.255.255", Some("172.15.255.255"), Some("172.32.0.0")),
        ("192.0.0.0", "192.0.0.255", Some("191.255.255.255"), Some("192.0.1.0")),
        ("192.0.2.0", "192.0.2.255", Some("192.0.1.255"), Some("192.0.3.0")),
        ("192.88.99.0", "192.88.99.255", Some("192.88.98.255"), Some("192.88.100.0")),
        ("192.168.0.0", "192.168.255.255", Some("192.167.255.255"), Some("192.169.0.0")),
        ("198.18.0.0", "198.19.255.255", Some("198.17.255.255"), Some("198.20.0.0")),
        ("198.51.100.0", "198.51.100.255", Some("198.51.99.255"), Some("198.51.101.0")),
        ("203.0.113.0", "203.0.113.255", Some("203.0.112.255"), Some("203.0.114.0")),
        ("224.0.0.0", "239.255.255.255", Some("223.255.255.255"), None),
        ("240.0.0.0", "255.255.255.255", None, None),
    ];

    #[test]
    fn every_special_ipv4_range_is_refused_from_its_first_to_its_last_address_and_no_further() {
        for (first, last, before, after) in RANGES_V4 {
            for refused in [first, last] {
                assert!(check(&[], refused).is_err(), "{refused}");
            }
            for public in [before, after].into_iter().flatten() {
                assert_eq!(check(&[], public), Ok(()), "{public}");
            }
        }
    }

    #[test]
    fn special_addresses_are_refused_by_their_kind() {
        for (address, kind) in [
            ("169.254.169.254", "a link-local address"),
            ("100.100.100.200", "a carrier's shared address"),
            ("255.255.255.255", "the broadcast address"),
            ("::", "an unspecified address"),
            ("::1", "a loopback address"),
            ("64:ff9b:1::1", "a private address"),
            ("100::1", "a discard-only address"),
            ("2001:2::1", "an address kept for protocols"),
            ("2001:10::1", "an address kept for protocols"),
            ("2001:db8::1", "a documentation address"),
            ("3fff:fff::1", "a documentation address"),
            ("5f00::1", "an address kept for protocols"),
            ("fc00::1", "a private address"),
            ("fd00:ec2::254", "a private address"),
            ("fe80::1", "a link-local address"),
            ("febf::1", "a link-local address"),
            ("fec0::1", "a private address"),
            ("ff02::1", "a multicast address"),
            ("4000::1", "an address outside the public internet"),
            ("e000::1", "an address outside the public internet"),
            ("::ffff:0:0:0:1", "an address outside the public internet"),
        ] {
            assert_eq!(check(&[], address).map_err(|refused| refused.kind), Err(kind), "{address}");
        }
    }

    #[test]
    fn public_addresses_may_be_reached() {
        for address in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450::1", "2400:cb00::1", "3ffe::1"] {
            assert_eq!(check(&[], address), Ok(()), "{address}");
        }
    }

    #[test]
    fn an_ipv6_form_of_an_ipv4_address_is_judged_by_the_ipv4_address() {
        for form in ["::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b::{}"] {
            for inner in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.2", "255.255.255.255"] {
                let address = form.replace("{}", inner);
                assert!(check(&[], &address).is_err(), "{address}");
            }
            assert_eq!(check(&[], &form.replace("{}", "93.184.216.34")), Ok(()), "{form}");
        }
        // 6to4 and Teredo carry 10.1.2.3, 93.184.216.34 and 127.0.0.1 in other places.
        for refused in ["2002:a01:203::1", "2001:0:a01:203::a247:27dd", "2001:0:5db8:d822::80ff:fffe"] {
            assert!(check(&[], refused).is_err(), "{refused}");
        }
        for public in ["2002:5db8:d822::1", "2001:0:5db8:d822::a247:27dd"] {
            assert_eq!(check(&[], public), Ok(()), "{public}");
        }
    }

    #[test]
    fn an_allowed_range_lets_its_addresses_through_in_every_form_and_no_others() {
        for address in ["127.0.0.1", "127.255.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"] {
            assert_eq!(check(&["127.0.0.0/8"], address), Ok(()), "{address}");
        }
        for address in ["10.0.0.1", "::1", "169.254.169.254"] {
            assert!(check(&["127.0.0.0/8"], address).is_err(), "{address}");
        }
        assert_eq!(check(&["10.1.2.3/32"], "10.1.2.3"), Ok(()));
        assert!(check(&["10.1.2.3/32"], "10.1.2.4").is_err());
        assert_eq!(check(&["fd00:1::/32", "::1/128"], "fd00:1::9"), Ok(()));
        // A Teredo address names two IPv4 addresses: one allowed, one not, is not enough.
        assert!(check(&["10.0.0.0/8"], "2001:0:a01:203::80ff:fffe").is_err());
    }

    #[test]
    fn a_refusal_names_the_range_that_would_allow_the_address() {
        let refused = check(&[], "::ffff:10.1.2.3").unwrap_err();
        assert_eq!(refused.range, "10.0.0.0/8".parse().unwrap());
        assert!(refused.to_string().contains("add \"10.0.0.0/8\" to the sink's `allow`"), "{refused}");
    }

    proptest! {
        #[test]
        fn following_the_advice_of_a_refusal_lets_the_address_through(bits: u128, v4: u32, prefix in 0usize..6) {
            // Random IPv6 addresses hardly ever fall into the ranges that matter, so most are moved there.
            let prefixes = [bits, 0xffff << 32, 0, 0x64_ff9b_u128 << 96, 0xfe80 << 112, 0x2001_0db8 << 96];
            let v6 = if prefix == 0 { bits } else { prefixes[prefix] | u128::from(v4) };
            for address in [IpAddr::from(Ipv4Addr::from(v4)), IpAddr::from(Ipv6Addr::from(v6))] {
                let mut allow = Vec::new();
                // A Teredo address may need two ranges.
                for _ in 0..2 {
                    if let Err(refused) = AddressPolicy::new(allow.clone()).check(address) {
                        allow.push(refused.range);
                    }
                }
                prop_assert_eq!(AddressPolicy::new(allow).check(address), Ok(()));
            }
        }
    }
}

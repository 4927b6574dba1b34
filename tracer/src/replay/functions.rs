//! The kernel functions behind extensions: where to look for calls.

use crate::traversal::Family;

/// Whether an extension is a match or a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `struct xt_match`
    Match,
    /// `struct xt_target`
    Target,
}

/// The symbol of the function that the kernel calls for an extension: what `xt_match.match` or
/// `xt_target.target` points to. `None` for what is not in the table: the pointer in the kernel's own rules then
/// has the answer, where the kernel tells addresses.
///
/// The names are those of Linux 5.10 to 7.x. All are symbols of modules, one each. `rpfilter_mt` is not among them, for
/// two modules have one.
#[must_use]
pub fn function_name(kind: Kind, name: &str, revision: u8, family: Family) -> Option<&'static str> {
    match kind {
        Kind::Match => match_function(name, revision, family),
        Kind::Target => target_function(name, revision, family),
    }
}

/// The `struct xt_match` tables of `net/netfilter/xt_*.c`, `net/ipv4/netfilter/ipt_*.c` and
/// `net/ipv6/netfilter/ip6t_*.c`; the file has the name of the match unless a comment says otherwise.
fn match_function(name: &str, revision: u8, family: Family) -> Option<&'static str> {
    use Family::{Ipv4, Ipv6};
    Some(match (name, revision, family) {
        ("addrtype", 0, Ipv4) => "addrtype_mt_v0",
        ("addrtype", 1, _) => "addrtype_mt_v1",
        ("ah", 0, Ipv4) => "ah_mt",
        ("ah", 0, Ipv6) => "ah_mt6",
        ("bpf", 0, _) => "bpf_mt",
        ("bpf", 1, _) => "bpf_mt_v1",
        ("cgroup", 0, _) => "cgroup_mt_v0",
        ("cgroup", 1, _) => "cgroup_mt_v1",
        ("cgroup", 2, _) => "cgroup_mt_v2",
        ("cluster", 0, _) => "xt_cluster_mt",
        ("comment", 0, _) => "comment_mt",
        ("connbytes", 0, _) => "connbytes_mt",
        ("connlabel", 0, _) => "connlabel_mt",
        ("connlimit", 1, _) => "connlimit_mt",
        ("connmark", 1, _) => "connmark_mt",
        ("conntrack", 1, _) => "conntrack_mt_v1",
        ("conntrack", 2, _) => "conntrack_mt_v2",
        ("conntrack", 3, _) => "conntrack_mt_v3",
        ("cpu", 0, _) => "cpu_mt",
        ("dccp", 0, _) => "dccp_mt",
        ("devgroup", 0, _) => "devgroup_mt",
        ("dscp", 0, Ipv4) => "dscp_mt",
        ("dscp", 0, Ipv6) => "dscp_mt6",
        // ip6t_hbh.c
        ("hbh" | "dst", 0, Ipv6) => "hbh_mt6",
        ("ecn", 0, Ipv4) => "ecn_mt4",
        ("ecn", 0, Ipv6) => "ecn_mt6",
        ("esp", 0, _) => "esp_mt",
        ("eui64", 0, Ipv6) => "eui64_mt6",
        ("frag", 0, Ipv6) => "frag_mt6",
        ("hashlimit", 1, _) => "hashlimit_mt_v1",
        ("hashlimit", 2, _) => "hashlimit_mt_v2",
        ("hashlimit", 3, _) => "hashlimit_mt",
        ("helper", 0, _) => "helper_mt",
        // xt_hl.c, both
        ("hl", 0, Ipv6) => "hl_mt6",
        ("ttl", 0, Ipv4) => "ttl_mt",
        // ip_tables.c and ip6_tables.c up to 6.1, xt_tcpudp.c since
        ("icmp", 0, Ipv4) => "icmp_match",
        ("icmp6", 0, Ipv6) => "icmp6_match",
        ("ipcomp", 0, _) => "comp_mt",
        ("iprange", 1, Ipv4) => "iprange_mt4",
        ("iprange", 1, Ipv6) => "iprange_mt6",
        ("ipv6header", 0, Ipv6) => "ipv6header_mt6",
        ("ipvs", 0, _) => "ipvs_mt",
        ("l2tp", 0, Ipv4) => "l2tp_mt4",
        ("l2tp", 0, Ipv6) => "l2tp_mt6",
        ("length", 0, Ipv4) => "length_mt",
        ("length", 0, Ipv6) => "length_mt6",
        ("limit", 0, _) => "limit_mt",
        ("mac", 0, _) => "mac_mt",
        ("mark", 1, _) => "mark_mt",
        ("mh", 0, Ipv6) => "mh_mt6",
        ("multiport", 1, _) => "multiport_mt",
        ("nfacct", 0 | 1, _) => "nfacct_mt",
        ("osf", 0, Ipv4) => "xt_osf_match_packet",
        ("owner", 1, _) => "owner_mt",
        ("physdev", 0, _) => "physdev_mt",
        ("pkttype", 0, _) => "pkttype_mt",
        ("policy", 0, _) => "policy_mt",
        ("quota", 0, _) => "quota_mt",
        ("rateest", 0, _) => "xt_rateest_mt",
        ("realm", 0, Ipv4) => "realm_mt",
        ("recent", 0 | 1, _) => "recent_mt",
        ("rt", 0, Ipv6) => "rt_mt6",
        ("sctp", 0, _) => "sctp_mt",
        ("set", 0, Ipv4) => "set_match_v0",
        ("set", 1 | 2, _) => "set_match_v1",
        ("set", 3, _) => "set_match_v3",
        ("set", 4, _) => "set_match_v4",
        ("socket", 0, Ipv4) => "socket_mt4_v0",
        ("socket", 1..=3, Ipv4) => "socket_mt4_v1_v2_v3",
        ("socket", 1..=3, Ipv6) => "socket_mt6_v1_v2_v3",
        ("srh", 0, Ipv6) => "srh_mt6",
        ("srh", 1, Ipv6) => "srh1_mt6",
        ("state", 0, _) => "state_mt",
        ("statistic", 0, _) => "statistic_mt",
        ("string", 1, _) => "string_mt",
        // xt_tcpudp.c, all
        ("tcp", 0, _) => "tcp_mt",
        ("udp" | "udplite", 0, _) => "udp_mt",
        ("tcpmss", 0, _) => "tcpmss_mt",
        ("time", 0, _) => "time_mt",
        // xt_dscp.c
        ("tos", 1, _) => "tos_mt",
        ("u32", 0, _) => "u32_mt",
        _ => return None,
    })
}

/// The `struct xt_target` tables of the same directories.
fn target_function(name: &str, revision: u8, family: Family) -> Option<&'static str> {
    use Family::{Ipv4, Ipv6};
    Some(match (name, revision, family) {
        ("AUDIT", 0, _) => "audit_tg",
        ("CHECKSUM", 0, _) => "checksum_tg",
        ("CLASSIFY", 0, _) => "classify_tg",
        // ipt_CLUSTERIP.c, up to 6.1
        ("CLUSTERIP", 0, Ipv4) => "clusterip_tg",
        // xt_connmark.c
        ("CONNMARK", 1, _) => "connmark_tg",
        ("CONNMARK", 2, _) => "connmark_tg_v2",
        ("CONNSECMARK", 0, _) => "connsecmark_tg",
        ("CT", 0, _) => "xt_ct_target_v0",
        ("CT", 1 | 2, _) => "xt_ct_target_v1",
        ("NOTRACK", 0, _) => "notrack_tg",
        // xt_nat.c
        ("DNAT", 0, Ipv4) => "xt_dnat_target_v0",
        ("DNAT", 1, _) => "xt_dnat_target_v1",
        ("DNAT", 2, _) => "xt_dnat_target_v2",
        ("SNAT", 0, Ipv4) => "xt_snat_target_v0",
        ("SNAT", 1, _) => "xt_snat_target_v1",
        ("SNAT", 2, _) => "xt_snat_target_v2",
        // ip6t_NPT.c
        ("DNPT", 0, Ipv6) => "ip6t_dnpt_tg",
        ("SNPT", 0, Ipv6) => "ip6t_snpt_tg",
        ("DSCP", 0, Ipv4) => "dscp_tg",
        ("DSCP", 0, Ipv6) => "dscp_tg6",
        // xt_DSCP.c
        ("TOS", 1, Ipv4) => "tos_tg",
        ("TOS", 1, Ipv6) => "tos_tg6",
        ("ECN", 0, Ipv4) => "ecn_tg",
        // xt_HL.c
        ("HL", 0, Ipv6) => "hl_tg6",
        ("TTL", 0, Ipv4) => "ttl_tg",
        ("HMARK", 0, Ipv4) => "hmark_tg_v4",
        ("HMARK", 0, Ipv6) => "hmark_tg_v6",
        ("LOG", 0, _) => "log_tg",
        // xt_mark.c
        ("MARK", 2, _) => "mark_tg",
        ("MASQUERADE", 0, Ipv4) => "masquerade_tg",
        ("MASQUERADE", 0, Ipv6) => "masquerade_tg6",
        ("NETMAP", 0, Ipv4) => "netmap_tg4",
        ("NETMAP", 0, Ipv6) => "netmap_tg6",
        ("NFLOG", 0, _) => "nflog_tg",
        ("NFQUEUE", 0, _) => "nfqueue_tg",
        ("NFQUEUE", 1, _) => "nfqueue_tg_v1",
        ("NFQUEUE", 2, _) => "nfqueue_tg_v2",
        ("NFQUEUE", 3, _) => "nfqueue_tg_v3",
        ("RATEEST", 0, _) => "xt_rateest_tg",
        ("REDIRECT", 0, Ipv4) => "redirect_tg4",
        ("REDIRECT", 0, Ipv6) => "redirect_tg6",
        ("REJECT", 0, Ipv4) => "reject_tg",
        ("REJECT", 0, Ipv6) => "reject_tg6",
        // xt_set.c
        ("SET", 0, Ipv4) => "set_target_v0",
        ("SET", 1, _) => "set_target_v1",
        ("SET", 2, _) => "set_target_v2",
        ("SET", 3, _) => "set_target_v3",
        ("SYNPROXY", 0, Ipv4) => "synproxy_tg4",
        ("SYNPROXY", 0, Ipv6) => "synproxy_tg6",
        ("TCPMSS", 0, Ipv4) => "tcpmss_tg4",
        ("TCPMSS", 0, Ipv6) => "tcpmss_tg6",
        ("TCPOPTSTRIP", 0, Ipv4) => "tcpoptstrip_tg4",
        ("TCPOPTSTRIP", 0, Ipv6) => "tcpoptstrip_tg6",
        ("TEE", 1, Ipv4) => "tee_tg4",
        ("TEE", 1, Ipv6) => "tee_tg6",
        ("TPROXY", 0, Ipv4) => "tproxy_tg4_v0",
        ("TPROXY", 1, Ipv4) => "tproxy_tg4_v1",
        ("TPROXY", 1, Ipv6) => "tproxy_tg6_v1",
        ("TRACE", 0, _) => "trace_tg",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_and_families_have_functions_of_their_own() {
        let function = |name, revision, family| function_name(Kind::Match, name, revision, family);
        assert_eq!(function("addrtype", 1, Family::Ipv6), Some("addrtype_mt_v1"));
        assert_eq!(function("addrtype", 0, Family::Ipv6), None);
        assert_eq!(function("set", 4, Family::Ipv4), Some("set_match_v4"));
        assert_eq!(function("hashlimit", 3, Family::Ipv4), Some("hashlimit_mt"));
        assert_eq!(function("tcp", 9, Family::Ipv4), None);
    }

    #[test]
    fn a_match_is_not_the_target_of_its_name() {
        let name = |kind, name, revision| function_name(kind, name, revision, Family::Ipv4);
        assert_eq!(name(Kind::Match, "mark", 1), Some("mark_mt"));
        assert_eq!(name(Kind::Target, "MARK", 2), Some("mark_tg"));
        assert_eq!(name(Kind::Target, "mark", 1), None);
    }
}

//! Calico's chains (`felix/rules/rule_defs.go`): the prefix says what it is, the rest is the name of a device, policy
//! or profile, or a hash of one that is too long.

/// Says what a chain is for, given the name in it.
type Words = fn(&str) -> String;

/// What a chain is for.
pub(super) fn meaning(chain: &str) -> Option<String> {
    let rest = chain.strip_prefix("cali-")?;
    /// Prefixes of chains with a name in them, the longer before the shorter.
    const NAMED: [(&str, Words); 12] = [
        ("thfw-", |device| {
            format!("forwarded, to the host endpoint at {device}")
        }),
        ("fhfw-", |device| {
            format!("forwarded, from the host endpoint at {device}")
        }),
        ("pri-", |profile| named("profile", profile, "inbound")),
        ("pro-", |profile| named("profile", profile, "outbound")),
        ("pi-", |policy| named("policy", policy, "inbound")),
        ("po-", |policy| named("policy", policy, "outbound")),
        ("tw-", |device| format!("to the workload at {device}")),
        ("fw-", |device| format!("from the workload at {device}")),
        ("th-", |device| format!("to the host endpoint at {device}")),
        ("fh-", |device| format!("from the host endpoint at {device}")),
        ("sm-", |device| {
            format!("sets the mark of the workload at {device}")
        }),
        ("gpi-", |group| format!("policies {group}, inbound")),
    ];
    let with_a_name = NAMED.iter().find_map(|(prefix, words)| {
        rest.strip_prefix(prefix)
            .filter(|name| !name.is_empty())
            .map(words)
    });
    with_a_name.or_else(|| fixed(rest).map(str::to_owned))
}

/// A policy or profile. Profiles of Kubernetes are named `kns.` and the namespace, `ksa.` and the service account; a
/// hash begins with `_`.
fn named(what: &str, name: &str, way: &str) -> String {
    if name.starts_with('_') {
        return format!("a {what}, {way} (calico has hashed its long name)");
    }
    match (what, name.split_once('.')) {
        ("profile", Some(("kns", namespace))) => {
            format!("profile of the namespace {namespace}, {way}")
        }
        ("profile", Some(("ksa", account))) => format!("profile of the service account {account}, {way}"),
        _ => format!("{what} {name}, {way}"),
    }
}

fn fixed(rest: &str) -> Option<&'static str> {
    // Of many workloads those with a common start of their names have a chain of their own.
    for dispatch in ["from-wl-dispatch", "to-wl-dispatch"] {
        if rest
            .strip_prefix(dispatch)
            .is_some_and(|rest| rest.starts_with('-'))
        {
            return fixed(dispatch);
        }
    }
    Some(match rest {
        "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING" => "calico's part of the chain",
        "from-wl-dispatch" => "chooses the workload that it comes from by its device",
        "to-wl-dispatch" => "chooses the workload that it goes to by its device",
        "from-host-endpoint" | "to-host-endpoint" => "chooses the host endpoint",
        "from-hep-forward" | "to-hep-forward" => "chooses the host endpoint of a forwarded packet",
        "wl-to-host" => "from workloads to the node itself",
        "nat-outgoing" => "source NAT of pods that leave the cluster",
        "fip-dnat" | "fip-snat" => "floating addresses",
        "failsafe-in" | "failsafe-out" => "ports that are always open",
        "cidr-block" => "blocks addresses that no node has",
        "forward-check" => "what is known or goes to a service needs no check",
        "forward-endpoint-mark" | "set-endpoint-mark" | "from-endpoint-mark" => "endpoint marks",
        "rpf-skip" => "spared the check of the source address",
        _ => return None,
    })
}

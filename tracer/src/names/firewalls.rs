//! Chains of ufw and firewalld.

/// What a chain is for.
pub(super) fn meaning(chain: &str) -> Option<String> {
    ufw(chain).or_else(|| firewalld(chain))
}

/// `ufw-before-input`, for IPv6 `ufw6-before-input` (`src/backend_iptables.py`, `src/ufw-init-functions`).
fn ufw(chain: &str) -> Option<String> {
    let rest = chain
        .strip_prefix("ufw-")
        .or_else(|| chain.strip_prefix("ufw6-"))?;
    let (what, hook) = rest.rsplit_once('-').unwrap_or((rest, ""));
    let words = match what {
        "before" => "rules before those of the administrator",
        "after" => "rules after those of the administrator",
        "user" => "the administrator's rules",
        "before-logging" | "after-logging" | "user-logging" => "logging",
        "reject" | "track" => what,
        "skip-to-policy" => "straight to the policy",
        "user-limit" | "user-limit-accept" => "limited connections",
        _ => match rest {
            "not-local" => "drops what is for nobody here",
            "logging-deny" => "logs what is blocked",
            "logging-allow" => "logs what is allowed",
            "user-limit" | "user-limit-accept" => "limited connections",
            _ => return None,
        },
    };
    Some(match hook {
        "input" | "output" | "forward" => format!("ufw: {words}, {hook}"),
        _ => format!("ufw: {words}"),
    })
}

/// `IN_public_allow`: hook, zone and part (`src/firewall/core/ipXtables.py`).
fn firewalld(chain: &str) -> Option<String> {
    const HOOKS: [(&str, &str); 7] = [
        ("IN_", "input"),
        ("OUT_", "output"),
        ("FWDI_", "forwarded, coming in"),
        ("FWDO_", "forwarded, going out"),
        ("FWD_", "forwarded"),
        ("PRE_", "before routing"),
        ("POST_", "after routing"),
    ];
    const PARTS: [&str; 5] = ["log", "deny", "allow", "pre", "post"];

    if let Some(hook) = chain.strip_suffix("_ZONES") {
        return is_upper(hook).then(|| "firewalld: chooses the zone".to_owned());
    }
    if let Some(hook) = chain.strip_suffix("_direct") {
        return is_upper(hook).then(|| "firewalld: direct rules of the administrator".to_owned());
    }
    let (rest, hook) = HOOKS
        .iter()
        .find_map(|(prefix, words)| Some((chain.strip_prefix(prefix)?, *words)))?;
    let (zone, part) = match rest.rsplit_once('_') {
        Some((zone, part)) if PARTS.contains(&part) => (zone, format!(", {part}")),
        _ => (rest, String::new()),
    };
    let is_zone = !zone.is_empty()
        && zone
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_zone.then(|| format!("firewalld: zone {zone}, {hook}{part}"))
}

fn is_upper(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

//! kube-proxy's chains (`pkg/proxy/iptables/proxier.go`): the hash in a chain's name says nothing, but the comments of
//! the rules in it and before it name the service.

use std::collections::HashMap;

use super::rule::Words;

/// Prefixes of chains that belong to one port of one service, or to one endpoint of it.
const OF_A_SERVICE: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-EXT-",
    "KUBE-XLB-",
    "KUBE-FW-",
    "KUBE-SEP-",
];

/// What the rules tell of services.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// `namespace/name:port` by chain.
    services: HashMap<String, String>,
    /// `address:port` by chain.
    endpoints: HashMap<String, String>,
}

impl Services {
    /// Reads one rule of a chain.
    pub(super) fn read(&mut self, chain: &str, words: &Words<'_>) {
        if let Some(service) = words.comment.as_deref().and_then(service) {
            // What leads to a chain says best whose it is; what is in it, where nothing leads to it.
            if let Some(target) = words.target.as_deref().filter(|target| is_of_a_service(target)) {
                self.services.insert(target.to_owned(), service.clone());
            }
            if chain.starts_with("KUBE-SEP-") || chain.starts_with("KUBE-XLB-") {
                self.services.entry(chain.to_owned()).or_insert(service);
            }
        }
        if chain.starts_with("KUBE-SEP-")
            && let Some(endpoint) = &words.destination
        {
            self.endpoints.insert(chain.to_owned(), endpoint.to_string());
        }
    }

    /// What a chain is for.
    pub(super) fn meaning(&self, chain: &str) -> Option<String> {
        let known = self.services.get(chain);
        let service = || known.map(|service| format!(" {service}")).unwrap_or_default();
        if let Some(prefix) = OF_A_SERVICE.into_iter().find(|prefix| chain.starts_with(prefix)) {
            return Some(match prefix {
                "KUBE-SVC-" => format!("service{}: chooses an endpoint", service()),
                "KUBE-SVL-" => format!("service{}: chooses an endpoint of this node", service()),
                "KUBE-EXT-" => format!("service{} from outside", service()),
                "KUBE-XLB-" => format!("service{} from outside, endpoints of this node", service()),
                "KUBE-FW-" => format!("load balancer of service{}: who may use it", service()),
                _ => {
                    let endpoint = self.endpoints.get(chain);
                    let endpoint = endpoint
                        .map(|endpoint| format!(" {endpoint}"))
                        .unwrap_or_default();
                    let of = known.map(|service| format!(" of {service}")).unwrap_or_default();
                    format!("endpoint{endpoint}{of}")
                }
            });
        }
        let fixed = match chain {
            "KUBE-SERVICES" => "looks for the service",
            "KUBE-EXTERNAL-SERVICES" => "rejects what goes to services without endpoints, from outside",
            "KUBE-NODEPORTS" => "looks for the service of a node port",
            "KUBE-MARK-MASQ" => "marks for source NAT",
            "KUBE-MARK-DROP" => "marks to be dropped",
            "KUBE-POSTROUTING" => "source NAT of what is marked",
            "KUBE-FIREWALL" => "drops what is marked to be dropped, and what pretends to come from localhost",
            "KUBE-PROXY-FIREWALL" => "drops what load balancers do not let in",
            "KUBE-FORWARD" => "lets forwarded packets of services through",
            "KUBE-PROXY-CANARY" | "KUBE-KUBELET-CANARY" => {
                "empty, shows kube-proxy or kubelet that nobody flushed"
            }
            _ => return None,
        };
        Some(fixed.to_owned())
    }
}

fn is_of_a_service(chain: &str) -> bool {
    OF_A_SERVICE.iter().any(|prefix| chain.starts_with(prefix))
}

/// The first word of a comment that is the name of a service's port: `default/nginx:http`, `default/nodeport:` where
/// the port has no name, from newer kube-proxies `default/nodeport`.
fn service(comment: &str) -> Option<String> {
    comment.split_whitespace().find_map(|word| {
        let (namespace, rest) = word.split_once('/')?;
        let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
        let is_label = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        };
        let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
        if !is_label(namespace) || !is_label(name) || is_address(namespace) {
            return None;
        }
        if port.is_empty() {
            Some(format!("{namespace}/{name}"))
        } else {
            is_label(port).then(|| format!("{namespace}/{name}:{port}"))
        }
    })
}

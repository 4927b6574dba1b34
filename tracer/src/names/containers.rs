//! Chains of Docker, of CNI plugins (portmap, firewall, bridge) and of flannel.

use std::collections::HashMap;

use super::rule::Words;

/// Letters of a container's id that people look at.
const ID_LEN: usize = 12;

/// What comments tell of the CNI plugins' chains: `name: "podman" id: "0123…"`.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// Network and container by chain.
    known: HashMap<String, (String, String)>,
}

impl Networks {
    /// Reads one rule of a chain.
    pub(super) fn read(&mut self, chain: &str, words: &Words<'_>) {
        let Some(comment) = words.comment.as_deref() else {
            return;
        };
        let value = |key: &str| {
            let (_, rest) = comment.split_once(key)?;
            let value = rest.trim_start().trim_start_matches('"');
            let end = value.find(['"', ' ']).unwrap_or(value.len());
            Some(value[..end].to_owned()).filter(|value| !value.is_empty())
        };
        let Some((network, id)) = value("name:").zip(value("id:")) else {
            return;
        };
        for name in [words.target.as_deref(), Some(chain)].into_iter().flatten() {
            if is_hashed(name) {
                self.known
                    .entry(name.to_owned())
                    .or_insert_with(|| (network.clone(), id.chars().take(ID_LEN).collect()));
            }
        }
    }

    /// What a chain is for.
    pub(super) fn meaning(&self, chain: &str) -> Option<String> {
        if let Some((network, id)) = self.known.get(chain) {
            let what = if chain.starts_with("CNI-DN-") {
                "host ports"
            } else {
                "source NAT"
            };
            return Some(format!("{what} of container {id} in network {network}"));
        }
        fixed(chain).map(str::to_owned)
    }
}

/// Whether a chain's name is a hash of the container: `CNI-DN-` of portmap, `CNI-` of the others.
fn is_hashed(chain: &str) -> bool {
    chain
        .strip_prefix("CNI-DN-")
        .or_else(|| chain.strip_prefix("CNI-"))
        .is_some_and(|hash| hash.len() >= 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn fixed(chain: &str) -> Option<&'static str> {
    Some(match chain {
        "DOCKER" => "docker: published ports of containers",
        "DOCKER-USER" => "docker: rules of the administrator",
        "DOCKER-FORWARD" => "docker: forwarded packets",
        "DOCKER-CT" => "docker: lets answers through",
        "DOCKER-BRIDGE" => "docker: to containers, by bridge",
        "DOCKER-INTERNAL" => "docker: networks without a way out",
        "DOCKER-INGRESS" => "docker swarm: published ports of services",
        "DOCKER-ISOLATION" | "DOCKER-ISOLATION-STAGE-1" | "DOCKER-ISOLATION-STAGE-2" => {
            "docker: keeps networks apart"
        }
        "DOCKER_OUTPUT" | "DOCKER_POSTROUTING" => "docker: its name server in containers",
        "CNI-FORWARD" => "CNI: forwarded packets of containers",
        "CNI-ADMIN" => "CNI: rules of the administrator",
        "CNI-HOSTPORT-DNAT" => "CNI: looks for the container of a host port",
        "CNI-HOSTPORT-SETMARK" => "CNI: marks host port traffic for source NAT",
        "CNI-HOSTPORT-MASQ" => "CNI: source NAT of marked host port traffic",
        "CNI-ISOLATION-STAGE-1" | "CNI-ISOLATION-STAGE-2" => "CNI: keeps networks apart",
        "FLANNEL-FWD" => "flannel: lets pods' packets through",
        "FLANNEL-POSTRTG" => "flannel: source NAT of pods that leave the cluster",
        _ => return None,
    })
}

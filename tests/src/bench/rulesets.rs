//! Rules to be measured with, each with the packets that pass them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use super::load::{Connections, Load};
use crate::command;
use crate::netns;
use crate::ruleset;

/// A ruleset by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruleset {
    /// Six rules a table, of which none matches: four traversals and ten calls of a match for each packet.
    Small,
    /// The same in nf_tables, by `iptables-nft`.
    SmallNftables,
    /// The published node with a `NodePort`.
    NodePort,
    /// A node of calico's.
    Calico,
    /// A node of kube-proxy's with so many services; each packet is the first of a connection to one of them.
    KubeProxy(Services),
}

/// How many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Services {
    /// 1,000
    Thousand,
    /// 10,000
    TenThousand,
}

/// A namespace made ready for a ruleset.
pub(super) struct Scene {
    rules: String,
    /// Whether they are loaded into nf_tables.
    pub(super) nftables: bool,
    /// Packets while there are no rules.
    pub(super) plain: Load,
    /// Packets that pass the rules.
    pub(super) load: Load,
    /// The port that a filter knows them by at their first table.
    pub(super) port: u16,
}

const PORT: u16 = 7300;
/// Where the pods of the service are: this node.
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const POD_PORT: u16 = 8080;
const SERVICE_PORT: u16 = 7300;

impl Ruleset {
    /// All.
    pub const ALL: [Self; 6] = [
        Self::Small,
        Self::SmallNftables,
        Self::NodePort,
        Self::Calico,
        Self::KubeProxy(Services::Thousand),
        Self::KubeProxy(Services::TenThousand),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::SmallNftables => "small-nftables",
            Self::NodePort => "nodeport",
            Self::Calico => "calico",
            Self::KubeProxy(Services::Thousand) => "kube-proxy-1000",
            Self::KubeProxy(Services::TenThousand) => "kube-proxy-10000",
        }
    }

    /// The ruleset of a name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ruleset| ruleset.name() == name)
    }

    pub(super) fn scene(self) -> Result<Scene> {
        let local = Load {
            connections: Connections::One,
            from: Ipv4Addr::LOCALHOST,
            to: SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT),
            arrives: SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT),
        };
        let scene = |rules, load| Scene {
            rules,
            nftables: self == Self::SmallNftables,
            plain: local,
            load,
            port: PORT,
        };
        // Connections that begin pass the nat table, which is where such a node has most of its rules.
        let new = Load {
            connections: Connections::Each,
            ..local
        };
        Ok(match self {
            Self::Small | Self::SmallNftables => scene(small(), local),
            Self::NodePort => scene(ruleset::fixture("nodeport-local.rules.v4")?, new),
            Self::Calico => {
                for set in ["cali40masq-ipam-pools", "cali40all-ipam-pools"] {
                    command::run(&format!("ipset create {set} hash:net"))?;
                }
                scene(ruleset::fixture("calico-pod-to-pod-same-node.rules.v4")?, new)
            }
            Self::KubeProxy(services) => {
                netns::dummy("eth0", "192.168.199.34/24")?;
                command::run("ip route add default dev eth0")?;
                for address in [POD, CLIENT] {
                    command::run(&format!("ip address add {address}/32 dev lo"))?;
                }
                let count = match services {
                    Services::Thousand => 1_000,
                    Services::TenThousand => 10_000,
                };
                let load = Load {
                    from: CLIENT,
                    to: SocketAddrV4::new(cluster_ip(count / 2), SERVICE_PORT),
                    arrives: SocketAddrV4::new(POD, POD_PORT),
                    ..new
                };
                scene(kube_proxy(count), load)
            }
        })
    }
}

impl Scene {
    /// Loads the rules, in place of what is there.
    pub(super) fn load_rules(&self) -> Result<()> {
        if self.nftables {
            command::run_with("iptables-nft-restore", &self.rules).map(drop)
        } else {
            ruleset::restore_v4(&self.rules)
        }
    }
}

fn small() -> String {
    let mut text = String::new();
    let mut table = |name: &str, chains: &[(&str, u32)]| {
        let _ = writeln!(text, "*{name}");
        for (chain, rules) in chains {
            for number in 1..=*rules {
                let _ = writeln!(
                    text,
                    "-A {chain} -p udp -m udp --dport {number} -m comment --comment \"rule {number}\" -j ACCEPT"
                );
            }
        }
        let _ = writeln!(text, "COMMIT");
    };
    table("raw", &[("PREROUTING", 3), ("OUTPUT", 3)]);
    table("filter", &[("INPUT", 2), ("FORWARD", 2), ("OUTPUT", 2)]);
    text
}

fn cluster_ip(service: u16) -> Ipv4Addr {
    let [high, low] = service.to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// The rules that kube-proxy writes (`syncProxyRules`, pkg/proxy/iptables/proxier.go) for services of two pods each.
/// The pods of all services are the same two; for the rules that makes no difference.
fn kube_proxy(services: u16) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for service in 0..services {
        let ip = cluster_ip(service);
        let name = format!("default/service-{service}:dns");
        let chain = format!("KUBE-SVC-{service:016}");
        let _ = writeln!(chains, ":{chain} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {ip}/32 -p udp -m comment --comment \"{name} cluster IP\" -m udp --dport \
             {SERVICE_PORT} -j {chain}\n\
             -A {chain} ! -s 10.244.0.0/16 -d {ip}/32 -p udp -m comment --comment \"{name} cluster IP\" -m udp \
             --dport {SERVICE_PORT} -j KUBE-MARK-MASQ"
        );
        for pod in 0..2 {
            let endpoint = format!("KUBE-SEP-{pod}{service:015}");
            let _ = writeln!(chains, ":{endpoint} - [0:0]");
            let chance = if pod == 0 {
                " -m statistic --mode random --probability 0.50000000000"
            } else {
                ""
            };
            let _ = writeln!(
                rules,
                "-A {chain} -m comment --comment \"{name} -> {POD}:{POD_PORT}\"{chance} -j {endpoint}\n\
                 -A {endpoint} -s {POD}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ\n\
                 -A {endpoint} -p udp -m comment --comment \"{name}\" -m udp -j DNAT --to-destination \
                 {POD}:{POD_PORT}"
            );
        }
    }
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n{chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE\n\
         {rules}\
         -A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in \
         this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n\
         :KUBE-FIREWALL - [0:0]\n\
         -A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" \
         -j KUBE-EXTERNAL-SERVICES\n\
         -A INPUT -j KUBE-FIREWALL\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-FIREWALL\n\
         -A KUBE-FIREWALL -m comment --comment \"kubernetes firewall for dropping marked packets\" -m mark \
         --mark 0x8000/0x8000 -j DROP\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_eight_rules() {
        let rules = |services| {
            kube_proxy(services)
                .lines()
                .filter(|line| line.starts_with("-A"))
                .count()
        };
        assert_eq!(rules(11) - rules(10), 8);
    }

    #[test]
    fn names_name() {
        for ruleset in Ruleset::ALL {
            assert_eq!(Ruleset::by_name(ruleset.name()), Some(ruleset));
        }
    }
}

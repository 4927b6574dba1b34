//! What chains are for, in a person's words, read from their names and from the rules and comments around them. No
//! cluster is asked. What is not known stays as it is: there is no guess.
//!
//! One file for each family of names: `kubernetes.rs` (kube-proxy), `calico.rs`, `containers.rs` (Docker, CNI,
//! flannel), `firewalls.rs` (ufw, firewalld). `rule.rs` reads what all need of a rule's text.

mod calico;
pub mod cgroup;
mod containers;
mod firewalls;
mod kubernetes;
mod rule;

use std::{collections::HashMap, sync::Arc};

use self::rule::Words;

/// Chains of one table that have a meaning.
#[derive(Clone, Debug, Default)]
pub struct Names {
    meanings: HashMap<String, Arc<str>>,
}

impl Names {
    /// Reads names from rules, those of a table or those that a packet met: each rule with the name of its chain and its text, as `iptables-save` or `nft`
    /// prints it.
    #[must_use]
    pub fn of<'a>(rules: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut services = kubernetes::Services::default();
        let mut cni = containers::Networks::default();
        let mut chains: Vec<String> = Vec::new();
        for (chain, text) in rules {
            let words = Words::of(text);
            services.read(chain, &words);
            cni.read(chain, &words);
            for name in [Some(chain), words.target.as_deref()].into_iter().flatten() {
                if chains.last().is_none_or(|last| last != name) {
                    chains.push(name.to_owned());
                }
            }
        }
        let mut meanings = HashMap::new();
        for chain in chains {
            if meanings.contains_key(&chain) {
                continue;
            }
            let meaning = services
                .meaning(&chain)
                .or_else(|| calico::meaning(&chain))
                .or_else(|| cni.meaning(&chain))
                .or_else(|| firewalls::meaning(&chain));
            if let Some(meaning) = meaning {
                meanings.insert(chain, meaning.into());
            }
        }
        Self { meanings }
    }

    /// What a chain is for.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<Arc<str>> {
        self.meanings.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rules: &[&str]) -> Names {
        let chain = |rule: &&'static str| rule.split(' ').nth(1).unwrap_or_default();
        // Leaked on purpose: a handful of test texts.
        let rules: Vec<&'static str> = rules.iter().map(|rule| &*rule.to_string().leak()).collect();
        Names::of(rules.iter().map(|rule| (chain(rule), *rule)))
    }

    fn meaning(rules: &[&str], chain: &str) -> Option<String> {
        names(rules).chain(chain).map(|meaning| meaning.to_string())
    }

    const NODEPORT: &str = include_str!("../../../tests/fixtures/nodeport-local.rules.v4");
    const CALICO: &str = include_str!("../../../tests/fixtures/docker-calico.master.rules.v4");

    fn fixture(save: &str) -> Names {
        let rules: Vec<&str> = save.lines().filter(|line| line.starts_with("-A ")).collect();
        names(&rules)
    }

    #[test]
    fn a_service_has_its_name_from_the_comments() {
        let names = fixture(NODEPORT);
        let meaning = |chain| names.chain(chain).unwrap().to_string();
        assert_eq!(
            meaning("KUBE-SVC-XP7QDA4CRQ2QA33W"),
            "service default/nodeport: chooses an endpoint"
        );
        assert_eq!(
            meaning("KUBE-SEP-YO2DYWAEPAUV7YLG"),
            "endpoint 10.244.3.3:8080 of default/nodeport"
        );
        assert_eq!(
            meaning("KUBE-XLB-XP7QDA4CRQ2QA33W"),
            "service default/nodeport from outside, endpoints of this node"
        );
        assert_eq!(meaning("KUBE-MARK-MASQ"), "marks for source NAT");
        assert!(names.chain("OUTPUT").is_none());
    }

    #[test]
    fn newer_kube_proxies_say_it_otherwise() {
        let rules = [
            "-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment \"kube-system/kube-dns:dns cluster IP\" \
             -m udp --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU",
            "-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment \"kube-system/kube-dns:dns -> 10.244.0.5:53\" \
             -j KUBE-SEP-ABC",
            "-A KUBE-SEP-ABC -p udp -m comment --comment \"kube-system/kube-dns:dns\" -m udp -j DNAT \
             --to-destination 10.244.0.5:53",
            "-A KUBE-NODEPORTS -p tcp -m comment --comment default/web -m tcp --dport 30080 -j KUBE-EXT-XYZ",
        ];
        assert_eq!(
            meaning(&rules, "KUBE-SVC-TCOU7JCQXEZGVUNU").unwrap(),
            "service kube-system/kube-dns:dns: chooses an endpoint"
        );
        assert_eq!(
            meaning(&rules, "KUBE-SEP-ABC").unwrap(),
            "endpoint 10.244.0.5:53 of kube-system/kube-dns:dns"
        );
        assert_eq!(
            meaning(&rules, "KUBE-EXT-XYZ").unwrap(),
            "service default/web from outside"
        );
    }

    #[test]
    fn nf_tables_rules_are_read_as_well() {
        let rules = Names::of([
            (
                "KUBE-SVC-A",
                "counter packets 0 bytes 0 jump KUBE-SEP-B comment \"default/web:http -> 10.0.0.1:80\"",
            ),
            ("FORWARD", "oifname \"eth0\" jump DOCKER-USER"),
        ]);
        assert_eq!(
            &*rules.chain("KUBE-SVC-A").unwrap(),
            "service: chooses an endpoint"
        );
        assert_eq!(
            &*rules.chain("KUBE-SEP-B").unwrap(),
            "endpoint of default/web:http"
        );
        assert!(rules.chain("DOCKER-USER").is_some());
    }

    #[test]
    fn calico_chains_tell_workloads_and_policies() {
        let names = fixture(CALICO);
        let found: Vec<_> = ["cali-tw-cali282b0776936", "cali-fw-cali282b0776936"]
            .into_iter()
            .map(|chain| names.chain(chain).unwrap().to_string())
            .collect();
        assert_eq!(
            found,
            [
                "to the workload at cali282b0776936",
                "from the workload at cali282b0776936"
            ]
        );
        assert_eq!(
            calico::meaning("cali-pri-kns.default").unwrap(),
            "profile of the namespace default, inbound"
        );
        assert_eq!(
            calico::meaning("cali-po-default.allow-web").unwrap(),
            "policy default.allow-web, outbound"
        );
        assert_eq!(
            calico::meaning("cali-pi-_7sDhcQkrn3w9Wvgu").unwrap(),
            "a policy, inbound (calico has hashed its long name)"
        );
        assert_eq!(calico::meaning("calm"), None);
    }

    #[test]
    fn firewalls_and_containers_have_theirs() {
        assert_eq!(
            meaning(&["-A INPUT -j ufw-user-input"], "ufw-user-input").unwrap(),
            "ufw: the administrator's rules, input"
        );
        assert_eq!(
            meaning(&["-A INPUT_ZONES -i eth0 -g IN_public"], "IN_public").unwrap(),
            "firewalld: zone public, input"
        );
        assert_eq!(
            meaning(&["-A IN_public -j IN_public_allow"], "IN_public_allow").unwrap(),
            "firewalld: zone public, input, allow"
        );
        let cni = [
            "-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"podman\\\" id: \\\"0123456789abcdef\\\"\" \
             -m multiport --dports 8080 -j CNI-DN-aabbccddeeff00112233",
        ];
        assert_eq!(
            meaning(&cni, "CNI-DN-aabbccddeeff00112233").unwrap(),
            "host ports of container 0123456789ab in network podman"
        );
        assert_eq!(meaning(&["-A FORWARD -j WEB"], "WEB"), None);
    }

    #[test]
    fn arbitrary_rules_never_panic() {
        bolero::check!()
            .with_type::<Vec<(String, String)>>()
            .for_each(|rules| {
                let names = Names::of(rules.iter().map(|(chain, text)| (chain.as_str(), text.as_str())));
                for (chain, _) in rules {
                    let _ = names.chain(chain);
                }
            });
        bolero::check!().with_type::<String>().for_each(|rest| {
            for start in [
                "KUBE-SVC-",
                "KUBE-SEP-",
                "cali-pi-",
                "cali-fw-",
                "CNI-",
                "ufw-",
                "IN_",
                "DOCKER",
            ] {
                let chain = format!("{start}{rest}");
                let text = format!("-A {chain} --comment \"{rest}\" -j {chain} --to-destination {rest}");
                let _ = Names::of([(chain.as_str(), text.as_str())]).chain(&chain);
            }
        });
    }
}

use std::fs;

use tempfile::TempDir;

use super::super::offsets::Signature;
use super::super::offsets::tests::vmlinux_bytes;
use super::super::probes::Form;
use super::*;

const ROOT: &str = "000001ffffffffff";
const KALLSYMS: &str = "\
ffffffff81a00100 t kfree_skbmem
ffffffff81a00200 T kfree_skb_partial
ffffffff81a00300 T skb_attempt_defer_free
ffffffffc0a0b000 t xt_alloc_table_info\t[x_tables]
ffffffffc0a0b080 t xt_replace_table\t[x_tables]
ffffffffc0a0b100 t xt_free_table_info\t[x_tables]
ffffffffc0a0b200 t xt_find_table_lock\t[x_tables]
ffffffffc0a1b000 t ipt_do_table\t[ip_tables]
ffffffffc0a2b000 t ip6t_do_table\t[ip6_tables]
ffffffffc0a3b000 T nft_do_chain\t[nf_tables]
ffffffffc0a3b100 t __nft_trace_packet\t[nf_tables]
ffffffffc0a3b200 t nf_tables_commit\t[nf_tables]
";

/// A node as it is found in the field: a root directory with files in it.
struct Node {
    root: TempDir,
}

impl Node {
    /// One on which everything is in order.
    fn good() -> Self {
        let node = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let btf = vmlinux_bytes(true, true, |b| {
            let void_pointer = b.pointer(0);
            b.typedef("btf_trace_kfree_skb", void_pointer);
            b.typedef("btf_trace_consume_skb", void_pointer);
        });
        node.with("sys/kernel/btf/vmlinux", btf)
            .with(
                "sys/kernel/security/lockdown",
                "[none] integrity confidentiality\n",
            )
            .with("sys/bus/event_source/devices/kprobe/type", "6\n")
            .capable(ROOT)
            .with("proc/kallsyms", KALLSYMS)
            .with(
                "proc/modules",
                "ip_tables 36864 2 - Live 0x0\nip6_tables 36864 2 - Live 0x0\n",
            )
            .with("proc/net/ip_tables_names", "filter\nnat\n")
            .with("proc/net/ip6_tables_names", "filter\n")
    }

    fn with(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn without(self, path: &str) -> Self {
        fs::remove_file(self.root.path().join(path)).unwrap();
        self
    }

    fn capable(self, capabilities: &str) -> Self {
        self.with(
            "proc/self/status",
            format!("Name:\ttracer\nCapEff:\t{capabilities}\n"),
        )
    }

    /// A kernel that agrees to everything.
    fn check(&self) -> Report {
        self.check_answering(|_| Ok(()))
    }

    fn check_answering(&self, ask: fn(Question) -> Answer) -> Report {
        self.check_families(ask, Families::ALL)
    }

    fn check_families(&self, ask: fn(Question) -> Answer, families: Families) -> Report {
        check(&Machine::at(self.root.path()).answering(ask), families)
    }
}

fn obstacle(report: &Report) -> &Obstacle {
    let obstacle = report.first_obstacle().expect("something in the way");
    assert!(!obstacle.hint().is_empty());
    let message = obstacle.to_string();
    assert!(!message.contains('\n') && !message.ends_with('.'), "{message}");
    obstacle
}

fn warning<'a>(report: &'a Report, name: &str) -> &'a str {
    let finding = report.findings.iter().find(|finding| finding.name == name);
    match &finding.expect(name).outcome {
        Outcome::Warn { meaning, .. } => meaning,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_good_node_has_nothing_to_be_told() {
    let report = Node::good().check();
    for finding in &report.findings {
        assert!(matches!(finding.outcome, Outcome::Ok), "{finding:?}");
    }
    assert!(report.probes.iter().all(|probe| probe.place.is_found()));
    assert_eq!(
        report.resolved.unwrap().signature.unwrap().0,
        Signature::TableLast
    );
}

#[test]
fn without_root_the_missing_capabilities_are_named_and_the_kernel_is_not_asked() {
    let report = Node::good()
        .capable("0000000000000000")
        .check_answering(|question| panic!("asked {question:?}"));
    assert_eq!(
        obstacle(&report).to_string(),
        "not permitted: tracing needs root, and this process lacks CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"
    );
}

#[test]
fn the_capabilities_suffice_without_all_of_root() {
    // CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN; then CAP_SYS_ADMIN, CAP_NET_ADMIN.
    for capabilities in ["000000c000001000", "0000000000201000"] {
        let report = Node::good().capable(capabilities).check();
        assert!(report.first_obstacle().is_none(), "{capabilities}");
    }
    let report = Node::good().capable("0000000000200000").check();
    assert!(obstacle(&report).to_string().ends_with("lacks CAP_NET_ADMIN"));
}

#[test]
fn lockdown_is_named_where_the_kernel_shows_it() {
    let report = Node::good()
        .with(
            "sys/kernel/security/lockdown",
            "none integrity [confidentiality]\n",
        )
        .check_answering(|question| match question {
            Question::ReadKernelMemory => Err(Errno::EINVAL),
            Question::RingBuffer | Question::KprobeProgram => Ok(()),
        });
    assert!(matches!(
        obstacle(&report),
        Obstacle::Lockdown(LockedDown::Stated)
    ));
    assert!(
        obstacle(&report)
            .hint()
            .contains("cat /sys/kernel/security/lockdown")
    );
    let failed = report
        .findings
        .iter()
        .filter(|f| matches!(f.outcome, Outcome::Fail(_)));
    assert_eq!(failed.count(), 1, "told once");
}

#[test]
fn integrity_mode_allows_tracing() {
    let report = Node::good()
        .with(
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        )
        .check();
    assert!(report.first_obstacle().is_none());
}

#[test]
fn lockdown_is_worked_out_where_the_kernel_does_not_show_it() {
    let node = Node::good().without("sys/kernel/security/lockdown");
    assert!(node.check().first_obstacle().is_none());
    let answers: [fn(Question) -> Answer; 2] = [
        |question| match question {
            Question::ReadKernelMemory => Err(Errno::EINVAL),
            Question::RingBuffer | Question::KprobeProgram => Ok(()),
        },
        |question| match question {
            Question::RingBuffer => Ok(()),
            Question::KprobeProgram | Question::ReadKernelMemory => Err(Errno::EPERM),
        },
    ];
    for ask in answers {
        let report = node.check_answering(ask);
        assert!(matches!(
            obstacle(&report),
            Obstacle::Lockdown(LockedDown::Inferred(_))
        ));
    }
}

#[test]
fn a_container_that_forbids_bpf_is_not_taken_for_lockdown() {
    let node = Node::good().without("sys/kernel/security/lockdown");
    let report = node.check_answering(|_| Err(Errno::EPERM));
    assert!(matches!(
        obstacle(&report),
        Obstacle::Privilege(Privilege::Refused(Errno::EPERM))
    ));
}

#[test]
fn a_kernel_without_ring_buffer_is_too_old() {
    let report = Node::good().check_answering(|question| match question {
        Question::RingBuffer => Err(Errno::EINVAL),
        Question::KprobeProgram | Question::ReadKernelMemory => Ok(()),
    });
    assert!(obstacle(&report).to_string().contains("kernel 5.8"));
}

#[test]
fn a_kernel_without_btf_is_named() {
    let report = Node::good().without("sys/kernel/btf/vmlinux").check();
    assert!(matches!(obstacle(&report), Obstacle::NoBtf(_)));
    assert!(obstacle(&report).hint().contains("CONFIG_DEBUG_INFO_BTF=y"));
}

#[test]
fn a_kernel_that_does_not_describe_modules_is_refused_unless_it_is_known() {
    let report = Node::good()
        .with("sys/kernel/btf/vmlinux", vmlinux_bytes(false, true, |_| {}))
        .check();
    assert!(report.resolved.is_none());
    assert!(
        obstacle(&report)
            .hint()
            .contains("CONFIG_DEBUG_INFO_BTF_MODULES=y")
    );
}

#[test]
fn kprobes_can_be_missing_or_switched_off() {
    let report = Node::good()
        .without("sys/bus/event_source/devices/kprobe/type")
        .check();
    assert_eq!(obstacle(&report).to_string(), "the kernel has no kprobes");
    let report = Node::good()
        .with("sys/kernel/debug/kprobes/enabled", "0\n")
        .check();
    assert_eq!(
        obstacle(&report).to_string(),
        "kprobes are switched off on this node"
    );
}

#[test]
fn without_legacy_tables_the_reader_is_pointed_to_nf_tables() {
    let node = Node::good()
        .with("proc/kallsyms", "")
        .with("proc/modules", "nf_tables 372736 7 nft_compat, Live 0x0\n");
    let report = node.check();
    assert_eq!(
        obstacle(&report).to_string(),
        "this node has no legacy iptables tables: modules ip_tables and ip6_tables are not loaded"
    );
    let hint = obstacle(&report).hint();
    assert!(
        hint.contains("`iptables -V`") && hint.contains("nf_tables"),
        "{hint}"
    );
    let only_ipv6 = Families {
        ipv4: false,
        ipv6: true,
    };
    let report = node.check_families(|_| Ok(()), only_ipv6);
    assert!(
        obstacle(&report)
            .to_string()
            .ends_with("module ip6_tables is not loaded")
    );
}

#[test]
fn one_family_without_tables_is_a_warning() {
    let report = Node::good()
        .with("proc/kallsyms", KALLSYMS.replace("ip6t_do_table", "other"))
        .check();
    assert!(report.first_obstacle().is_none());
    assert!(warning(&report, "legacy iptables").starts_with("IPv6 is not traced"));
}

#[test]
fn rules_in_nf_tables_that_cannot_be_traced_are_a_warning() {
    let modules = "nf_tables 372736 7 nft_compat, Live 0x0\nnft_compat 20480 3 - Live 0x0\n";
    let node = Node::good()
        .with("proc/modules", modules)
        .with("proc/kallsyms", KALLSYMS.replace("__nft_trace", "other"));
    let report = node.check();
    assert!(warning(&report, "nf_tables").contains("are not traced"));
    assert!(!report.traces_nftables());
    let modules = "nf_tables 372736 0 - Live 0x0\n";
    let report = node.with("proc/modules", modules).check();
    assert!(
        report
            .findings
            .iter()
            .all(|finding| matches!(finding.outcome, Outcome::Ok))
    );
}

#[test]
fn nf_tables_alone_can_be_traced() {
    let only: String = KALLSYMS
        .lines()
        .filter(|line| !line.contains("_tables]") || line.contains("[nf_tables]"))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let report = Node::good()
        .with("proc/kallsyms", only)
        .with("proc/modules", "nf_tables 372736 7 - Live 0x0\n")
        .check();
    assert!(report.first_obstacle().is_none(), "{:?}", report.findings);
    assert!(report.traces_nftables());
}

#[test]
fn nf_tables_takes_a_namespace_of_ones_own() {
    let report = Node::good()
        .capable("000000c000001000")
        .with("proc/modules", "nf_tables 372736 7 - Live 0x0\n")
        .check();
    assert!(warning(&report, "nf_tables").ends_with("lacks CAP_SYS_ADMIN"));
    assert!(report.first_obstacle().is_none());
}

#[test]
fn a_namespace_without_tables_is_a_warning() {
    let report = Node::good()
        .with("proc/net/ip_tables_names", "")
        .without("proc/net/ip6_tables_names")
        .check();
    assert!(report.first_obstacle().is_none());
    for name in ["IPv4 tables", "IPv6 tables"] {
        assert!(warning(&report, name).contains("no legacy table"));
    }
}

#[test]
fn what_ends_a_packet_unseen_is_a_warning() {
    let twice = format!("{KALLSYMS}ffffffff81a00200 t kfree_skbmem\n");
    let report = Node::good().with("proc/kallsyms", twice).check();
    assert!(report.first_obstacle().is_none());
    warning(&report, "end of packets");
}

#[test]
fn a_kernel_that_preempts_programs_on_trampolines_gets_kprobes() {
    let lazy = format!("{KALLSYMS}ffffffff81a00300 T resched_curr_lazy\n");
    let report = Node::good().with("proc/kallsyms", lazy).check();
    assert!(report.first_obstacle().is_none());
    assert!(report.preempted && !Node::good().check().preempted);
    let on_trampoline = |probe: &Probe| matches!(probe.form, Form::Fentry | Form::Fexit);
    assert!(!report.probes.iter().any(on_trampoline));
}

#[test]
fn a_function_listed_twice_cannot_be_probed() {
    let twice = format!("{KALLSYMS}ffffffffc0a3b000 t ipt_do_table\t[other]\n");
    let report = Node::good().with("proc/kallsyms", twice).check();
    assert!(obstacle(&report).to_string().contains("ipt_do_table"));
}

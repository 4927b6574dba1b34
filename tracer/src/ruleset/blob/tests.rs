use super::super::builder::{ACCEPT, DROP, TableBuilder, TargetSpec, rule};
use super::*;

fn small(family: Family) -> TableBuilder {
    TableBuilder::new(family, "filter")
        .built_in(Hook::LocalIn, ACCEPT)
        .rule(rule().protocol(6).matching("tcp", 0, &[7; 20]).jump("WEB"))
        .rule(rule())
        .built_in(Hook::Forward, DROP)
        .rule(rule().in_device("eth+").not_out_device("lo").goto("WEB"))
        .chain("WEB")
        .rule(rule().comment("why").extension("MARK", 2, &[1; 8]))
        .rule(rule().verdict(DROP))
        .rule(rule().not_protocol(17).return_())
}

#[test]
fn a_table_is_decoded() {
    let table = small(Family::Ipv4).table();
    assert_eq!(table.name, "filter");
    let hooks: Vec<_> = table.hooks.iter().map(|chain| chain.hook).collect();
    assert_eq!(hooks, [Hook::LocalIn, Hook::Forward]);
    assert_eq!(table.rules.len(), 3 + 2 + 5 + 1);
    assert_eq!(table.hooks[0].entry, 0);
    assert_eq!(table.hooks[0].underflow, table.rules[2].offset);
    assert_eq!(table.hooks[1].entry, table.rules[3].offset);
    let unconditional: Vec<_> = table.rules.iter().map(|rule| rule.unconditional).collect();
    let (yes, no) = (true, false);
    assert_eq!(unconditional, [no, yes, yes, no, yes, yes, no, yes, no, yes, yes]);
    let web = table.rules[6].offset;
    assert_eq!(table.rules[0].target, Target::Standard(Standard::Jump(web)));
    assert_eq!(
        table.rules[1].target,
        Target::Standard(Standard::Jump(table.rules[1].next))
    );
    assert_eq!(table.rules[2].target, Target::Standard(Standard::Verdict(ACCEPT)));
    assert_eq!(table.rules[3].target, Target::Standard(Standard::Jump(web)));
    assert_eq!(table.rules[3].header.flags, 2);
    assert_eq!(table.rules[4].target, Target::Standard(Standard::Verdict(DROP)));
    assert_eq!(table.rules[5].target, Target::Head { chain: "WEB".into() });
    assert_eq!(table.rules[8].target, Target::Standard(Standard::Return));
    assert_eq!(
        table.rules[10].target,
        Target::Head {
            chain: "ERROR".into()
        }
    );
    assert_eq!(table.stack_len_max, 2);
}

#[test]
fn data_lies_where_matchinfo_points_to() {
    for (family, entry_len) in [(Family::Ipv4, 112), (Family::Ipv6, 168)] {
        let table = small(family).table();
        let tcp = &table.rules[0].matches[0];
        assert_eq!((tcp.name.as_str(), tcp.revision), ("tcp", 0));
        assert_eq!(tcp.data, entry_len + 32..entry_len + 32 + 24);
        assert_eq!(table.data(&tcp.data)[..20], [7; 20]);
        let Target::Extension(mark) = &table.rules[6].target else {
            panic!("{:?}", table.rules[6]);
        };
        assert_eq!((mark.name.as_str(), mark.revision), ("MARK", 2));
        assert_eq!(table.data(&mark.data), [1; 8]);
    }
}

#[test]
fn headers_are_the_same_in_both_families() {
    let addresses = |family, source, destination| {
        TableBuilder::new(family, "raw")
            .built_in(Hook::PreRouting, ACCEPT)
            .rule(
                rule()
                    .not_source(source)
                    .destination(destination)
                    .in_device("eth0")
                    .not_out_device("w+")
                    .protocol(17),
            )
            .table()
            .rules
            .remove(0)
            .header
    };
    let v4 = addresses(Family::Ipv4, "10.1.2.3", "192.168.0.0/12");
    let v6 = addresses(Family::Ipv6, "2001:db8::1", "fe80::/10");
    assert_eq!(v4.source.0[..4], [10, 1, 2, 3]);
    assert_eq!(v4.source.1[..5], [255, 255, 255, 255, 0]);
    assert_eq!(v4.destination.0[..4], [192, 160, 0, 0]);
    assert_eq!(v6.source.1, [255; 16]);
    assert_eq!(v6.destination.1[..3], [0xff, 0xc0, 0]);
    assert_eq!((v4.flags, v6.flags), (0, 1));
    for header in [v4, v6] {
        assert_eq!(header.in_device.0[..5], *b"eth0\0");
        assert_eq!(header.in_device.1[..6], [255, 255, 255, 255, 255, 0]);
        assert_eq!(header.out_device.1[..3], [255, 0, 0]);
        assert_eq!(header.protocol, 17);
        assert_eq!(header.inverted, 0x08 | 0x02);
    }
}

#[test]
fn verdicts_are_decoded_as_the_kernel_codes_them() {
    assert_eq!(standard(0, -1), Ok(Standard::Verdict(0)));
    assert_eq!(standard(0, -2), Ok(Standard::Verdict(1)));
    assert_eq!(standard(0, -4), Ok(Standard::Verdict(3)));
    assert_eq!(standard(0, -5), Ok(Standard::Return));
    assert_eq!(standard(0, 0), Ok(Standard::Jump(0)));
    assert_eq!(
        standard(0, i32::MAX),
        Ok(Standard::Jump(i32::MAX.cast_unsigned()))
    );
    let error = standard(8, i32::MIN).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry at offset 8 has the unknown verdict -2147483648"
    );
}

#[test]
fn an_info_is_read() {
    let mut bytes = [0; Info::LEN];
    bytes[..3].copy_from_slice(b"nat");
    for (index, byte) in bytes[32..].iter_mut().step_by(4).enumerate() {
        *byte = u8::try_from(index).unwrap();
    }
    let bytes = if cfg!(target_endian = "little") {
        bytes
    } else {
        return;
    };
    let expected = Info {
        name: "nat".into(),
        valid_hooks: 0,
        hook_entry: [1, 2, 3, 4, 5],
        underflow: [6, 7, 8, 9, 10],
        entries_count: 11,
        size: 12,
    };
    assert_eq!(Info::from_bytes(&bytes), expected);
}

/// What a change to the blob of [`small`] leads to.
fn after(change: impl FnOnce(&mut Info, &mut Vec<u8>)) -> String {
    let (mut info, mut blob) = small(Family::Ipv4).blob();
    change(&mut info, &mut blob);
    match decode(Family::Ipv4, &info, blob) {
        Ok(_) => "no error".into(),
        Err(error) => error.to_string(),
    }
}

fn put16(blob: &mut [u8], at: usize, value: u16) {
    blob[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

#[test]
fn what_the_kernel_would_not_take_is_refused() {
    assert_eq!(after(|_, _| ()), "no error");
    let len = small(Family::Ipv4).blob().1.len();
    assert_eq!(
        after(|_, blob| blob.truncate(8)),
        format!("table has 8 bytes, not {len}")
    );
    assert_eq!(
        after(|info, blob| {
            info.size -= 8;
            blob.truncate(len - 8);
        }),
        format!("entry at offset {} ends beyond offset {}", len - 176, len - 8)
    );
    assert_eq!(
        after(|info, _| info.entries_count = 3),
        "table has 11 entries, not 3"
    );
    assert_eq!(
        after(|info, _| info.valid_hooks |= 0x60),
        "table has the unknown hooks 0x60"
    );
    assert_eq!(
        after(|info, _| info.hook_entry[1] = 8),
        "chain of INPUT is at offset 8, where no entry begins"
    );
    assert_eq!(
        after(|info, _| info.underflow[2] = u32::MAX),
        "policy of FORWARD is at offset 4294967295, where no entry begins"
    );
    for next in [0, 8, 143, 145] {
        assert_eq!(
            after(|_, blob| put16(blob, 90, next)),
            format!("next_offset of the entry at offset 0 is {next}")
        );
    }
    for target in [0, 104, 113, 184, 65528] {
        assert_eq!(
            after(|_, blob| put16(blob, 88, target)),
            format!("target_offset of the entry at offset 0 is {target}")
        );
    }
    assert_eq!(
        after(|_, blob| put16(blob, 112, 0)),
        "size of a match or target of the entry at offset 112 is 0"
    );
    assert_eq!(
        after(|_, blob| put16(blob, 112, 64)),
        "match at offset 112 ends beyond offset 168"
    );
    assert_eq!(
        after(|_, blob| put16(blob, 112, 32)),
        "match at offset 144 ends beyond offset 168"
    );
    assert_eq!(
        after(|_, blob| put16(blob, 168, 48)),
        "target at offset 168 ends beyond offset 208"
    );
    assert_eq!(
        after(|_, blob| put16(blob, 168, 32)),
        "target at offset 168 ends beyond offset 208"
    );
    assert_eq!(
        after(|_, blob| blob[114..143].fill(b'x')),
        "name at offset 114 has no end"
    );
    assert_eq!(
        after(|_, blob| blob[200..204].copy_from_slice(&8_i32.to_ne_bytes())),
        "entry at offset 0 jumps to offset 8, where no entry begins"
    );
    assert_eq!(
        after(|_, blob| blob[len - 32..].fill(b'x')),
        format!("name at offset {} has no end", len - 32)
    );
}

#[test]
fn a_jump_goes_to_an_entry_of_the_table() {
    let jump = |to| {
        let builder = TableBuilder::new(Family::Ipv6, "raw")
            .built_in(Hook::PreRouting, ACCEPT)
            .rule(rule().jump_to_offset(to));
        let (info, blob) = builder.blob();
        decode(Family::Ipv6, &info, blob).map(|table| table.rules[0].target.clone())
    };
    let (len, last) = (208 + 208 + 232, 208 + 208);
    for to in [0, 208, last] {
        assert_eq!(jump(to), Ok(Target::Standard(Standard::Jump(to))));
    }
    for to in [1, 168, 209, len, len + 8, 0x7fff_ffff] {
        assert_eq!(jump(to), Err(BlobError::Jump { offset: 0, to }));
    }
}

#[test]
fn a_large_table_is_decoded_in_no_time() {
    let chains = 1000;
    let rules = |chain: usize| {
        (0..100).map(move |number| {
            rule()
                .protocol(6)
                .destination("10.0.0.1")
                .matching("tcp", 0, &[0; 12])
                .comment("a rule")
                .jump(&format!("CHAIN-{}", (chain + number) % chains))
        })
    };
    let mut builder = TableBuilder::new(Family::Ipv4, "nat").built_in(Hook::PreRouting, ACCEPT);
    for chain in 0..chains {
        builder = builder.chain(&format!("CHAIN-{chain}")).rules(rules(chain));
    }
    let (info, blob) = builder.blob();
    let start = std::time::Instant::now();
    let table = decode(Family::Ipv4, &info, blob).unwrap();
    let decoded = start.elapsed();
    let labels = super::super::Labels::new(&table);
    let labelled = start.elapsed() - decoded;
    println!(
        "{} entries: decoded in {decoded:?}, labels in {labelled:?}",
        table.rules.len()
    );
    assert_eq!(table.rules.len(), 1 + 102 * chains + 1);
    let last = table.rules[table.rules.len() - 2].offset;
    let label = labels.of(Hook::PreRouting, last).unwrap();
    assert_eq!(label.to_string(), "CHAIN-999:return:101");
    assert!(decoded < std::time::Duration::from_secs(20), "{decoded:?}");
}

/// What must hold of every table, whatever bytes it came from.
fn check(table: &Table) {
    let mut end = 0;
    for rule in &table.rules {
        assert_eq!(rule.offset, end);
        end = rule.next;
        let mut data_end = rule.offset;
        let target = match &rule.target {
            Target::Extension(target) => Some(target),
            Target::Standard(_) | Target::Head { .. } => None,
        };
        for extension in rule.matches.iter().chain(target) {
            assert!(extension.data.start > data_end && extension.data.end >= extension.data.start);
            data_end = extension.data.end;
            let _ = table.data(&extension.data);
        }
        assert!(data_end < rule.next || target.is_some_and(|target| target.data.end == rule.next));
        if let Target::Standard(Standard::Jump(to)) = rule.target {
            assert!(index_of(&table.rules, to).is_some());
        }
    }
    assert_eq!(end as usize, table.blob.len());
}

#[test]
fn arbitrary_bytes_never_panic() {
    bolero::check!()
        .with_type::<([u8; Info::LEN], Vec<u8>, bool, bool)>()
        .for_each(|(info, bytes, v6, fits)| {
            let mut info = Info::from_bytes(info);
            if *fits {
                info.size = u32::try_from(bytes.len()).unwrap();
            }
            let family = if *v6 { Family::Ipv6 } else { Family::Ipv4 };
            if let Ok(table) = decode(family, &info, bytes.clone()) {
                check(&table);
            }
        });
}

#[test]
fn valid_tables_with_bytes_changed_never_panic() {
    let valid = [Family::Ipv4, Family::Ipv6].map(|family| (family, small(family).blob()));
    bolero::check!()
        .with_type::<(bool, Vec<(u16, u8)>)>()
        .for_each(|(v6, changes)| {
            let (family, (info, blob)) = &valid[usize::from(*v6)];
            let mut blob = blob.clone();
            for (at, value) in changes.iter().take(8) {
                let at = usize::from(*at) % blob.len();
                blob[at] = *value;
            }
            if let Ok(table) = decode(*family, info, blob) {
                check(&table);
            }
        });
}

#[test]
fn what_was_built_is_decoded() {
    type Spec = (u8, u16, u8, Vec<(u8, Vec<u8>)>, u8, Vec<u8>);
    bolero::check!()
        .with_type::<(bool, Vec<Spec>)>()
        .for_each(|(v6, specs)| {
            let family = if *v6 { Family::Ipv6 } else { Family::Ipv4 };
            let rules: Vec<_> = specs
                .iter()
                .take(16)
                .map(|(inverted, protocol, device, matches, target, data)| {
                    let mut rule = rule().bits(0, *inverted).protocol(*protocol);
                    if *device < 16 {
                        rule = rule.in_device(&"e".repeat(usize::from(*device)));
                    }
                    for (revision, data) in matches.iter().take(4) {
                        let data = &data[..data.len().min(100)];
                        rule = rule.matching("match", *revision, data);
                    }
                    match target % 6 {
                        0 => rule,
                        1 => rule.verdict(u32::from(*target)),
                        2 => rule.return_(),
                        3 => rule.jump("CHAIN"),
                        4 => rule.goto("CHAIN"),
                        _ => rule.extension("TARGET", *target, &data[..data.len().min(100)]),
                    }
                })
                .collect();
            let builder = TableBuilder::new(family, "mangle")
                .built_in(Hook::PostRouting, DROP)
                .chain("CHAIN")
                .rules(rules.clone());
            let table = builder.table();
            check(&table);
            assert_eq!(table.rules.len(), rules.len() + 4);
            let chain = table.rules[2].offset;
            for (built, decoded) in rules.iter().zip(&table.rules[2..]) {
                assert_eq!(decoded.header.protocol, built.header.protocol);
                assert_eq!(decoded.header.in_device, built.header.in_device);
                assert_eq!(decoded.header.inverted, built.header.inverted);
                assert_eq!(decoded.matches.len(), built.matches.len());
                for ((name, revision, data), extension) in built.matches.iter().zip(&decoded.matches) {
                    assert_eq!((name, revision), (&extension.name, &extension.revision));
                    assert_eq!(table.data(&extension.data)[..data.len()], **data);
                }
                match (&built.target, &decoded.target) {
                    (TargetSpec::None, Target::Standard(Standard::Jump(to))) => {
                        assert_eq!(*to, decoded.next);
                    }
                    (TargetSpec::Standard(built), Target::Standard(decoded)) => {
                        assert_eq!(built, decoded);
                    }
                    (TargetSpec::Jump(_) | TargetSpec::Goto(_), Target::Standard(Standard::Jump(to))) => {
                        assert_eq!(*to, chain);
                    }
                    (TargetSpec::Extension(name, revision, data), Target::Extension(extension)) => {
                        assert_eq!((name, revision), (&extension.name, &extension.revision));
                        assert_eq!(table.data(&extension.data)[..data.len()], **data);
                    }
                    (built, decoded) => panic!("{built:?} became {decoded:?}"),
                }
                let asks = built.header != rule().header || !built.matches.is_empty();
                let goes = matches!(built.target, TargetSpec::Goto(_));
                assert_eq!(decoded.unconditional, !asks && !goes);
            }
        });
}

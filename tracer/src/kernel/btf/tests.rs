use super::builder::{Builder, wrap};
use super::*;

/// A small vmlinux: a struct with an anonymous union in it, a typedef of an anonymous struct, a function.
fn vmlinux() -> Builder {
    let mut b = Builder::new();
    let int = b.int("unsigned int", 4);
    let net = b.forward("net");
    let net_pointer = b.pointer(net);
    let inner = b.structure("", &[("mark", int, 4), ("hash", int, 8)]);
    let constant = b.constant(inner);
    let union = b.union("", &[("first", int), ("", constant)]);
    let sk_buff = b.structure("sk_buff", &[("len", int, 0), ("", union, 16)]);
    let anonymous = b.structure("", &[("net", net_pointer, 0)]);
    let possible_net = b.typedef("possible_net_t", anonymous);
    let common = b.structure("sock_common", &[("skc_net", possible_net, 48)]);
    b.structure("sock", &[("__sk_common", common, 8)]);
    let skb_pointer = b.pointer(sk_buff);
    let constant_skb = b.constant(sk_buff);
    let constant_skb_pointer = b.pointer(constant_skb);
    let void_pointer = b.pointer(0);
    b.function(
        "hook",
        &[void_pointer, skb_pointer, constant_skb_pointer, net_pointer, int],
    );
    b.typedef("btf_trace_kfree_skb", void_pointer);
    b
}

fn parse(builder: &Builder) -> Btf {
    Btf::parse(builder.bytes()).unwrap()
}

/// Asks everything there is to ask.
fn ask(btf: &Btf) {
    for structure in ["sk_buff", "sock", "net", "a", ""] {
        for path in ["mark", "len", "__sk_common.skc_net.net", "a", "", "a.a"] {
            drop(btf.member(structure, path));
        }
        drop(btf.parameters(structure));
        let _ = btf.has_typedef(structure);
    }
    drop(btf.parameters("hook"));
}

#[test]
fn a_member_is_found() {
    assert_eq!(parse(&vmlinux()).member("sk_buff", "len"), Ok(0));
}

#[test]
fn a_member_is_found_through_anonymous_members_and_qualifiers() {
    let btf = parse(&vmlinux());
    assert_eq!(btf.member("sk_buff", "mark"), Ok(20));
    assert_eq!(btf.member("sk_buff", "hash"), Ok(24));
}

#[test]
fn a_path_steps_into_members_and_through_typedefs() {
    assert_eq!(
        parse(&vmlinux()).member("sock", "__sk_common.skc_net.net"),
        Ok(56)
    );
}

#[test]
fn what_is_not_there_is_an_absence() {
    let btf = parse(&vmlinux());
    for (structure, path) in [
        ("nf_conn", "mark"),
        ("net", "ns"),
        ("sk_buff", "nothing"),
        ("sk_buff", "len.more"),
        ("possible_net_t", "net"),
    ] {
        let error = btf.member(structure, path).unwrap_err();
        assert!(error.is_absence(), "{error}");
        assert!(error.to_string().contains(structure), "{error}");
    }
}

#[test]
fn bit_fields_are_refused_in_both_forms() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let narrow = b.narrow_int("int", 4, 3);
    b.structure_with_bits(
        "new",
        &[("whole", int, 32, 0), ("bits", int, 64, 3), ("odd", int, 67, 0)],
    );
    b.structure("old", &[("bits", narrow, 8)]);
    let btf = parse(&b);
    assert_eq!(btf.member("new", "whole"), Ok(4));
    for (structure, path) in [("new", "bits"), ("new", "odd"), ("old", "bits")] {
        assert!(matches!(
            btf.member(structure, path),
            Err(LookupError::Bitfield { .. })
        ));
    }
}

#[test]
fn structs_of_one_name_must_agree() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    b.structure("twin", &[("same", int, 4), ("moved", int, 8), ("lost", int, 12)]);
    b.structure("twin", &[("same", int, 4), ("moved", int, 16)]);
    b.forward("twin");
    let btf = parse(&b);
    assert_eq!(btf.member("twin", "same"), Ok(4));
    for path in ["moved", "lost"] {
        let error = btf.member("twin", path).unwrap_err();
        assert!(matches!(error, LookupError::Disagreement { .. }));
        assert_eq!(
            error.to_string(),
            format!("several structs twin disagree about member {path}")
        );
    }
}

#[test]
fn parameters_name_the_structs() {
    let pointer = |name: &str| Parameter::StructPointer(name.into());
    let expected = vec![
        Parameter::VoidPointer,
        pointer("sk_buff"),
        pointer("sk_buff"),
        pointer("net"),
        Parameter::Other,
    ];
    assert_eq!(parse(&vmlinux()).parameters("hook"), Ok(expected));
}

#[test]
fn functions_of_one_name_must_agree() {
    let mut b = vmlinux();
    b.function("hook", &[]);
    assert_eq!(
        parse(&b).parameters("hook"),
        Err(LookupError::FunctionsDisagree("hook".into()))
    );
}

#[test]
fn typedefs_are_found_by_name() {
    let btf = parse(&vmlinux());
    assert!(btf.has_typedef("btf_trace_kfree_skb"));
    assert!(!btf.has_typedef("sk_buff"));
}

#[test]
fn a_module_continues_ids_and_strings_of_vmlinux() {
    let base = Arc::new(parse(&vmlinux()));
    let mut b = Builder::on(&base);
    let module_struct = b.structure("xt_table", &[("", 4, 0), ("private", 1, 24)]);
    let pointer = b.pointer(module_struct);
    let base_pointer = b.pointer(7);
    b.function("ipt_do_table", &[pointer, base_pointer]);
    let btf = Btf::parse_split(&base, b.bytes()).unwrap();
    assert_eq!(btf.member("xt_table", "private"), Ok(24));
    assert_eq!(
        btf.member("xt_table", "mark"),
        Ok(4),
        "type 4 is the struct of vmlinux"
    );
    assert_eq!(btf.member("sk_buff", "mark"), Ok(20));
    assert_eq!(
        btf.parameters("ipt_do_table"),
        Ok(vec![
            Parameter::StructPointer("xt_table".into()),
            Parameter::StructPointer("sk_buff".into())
        ])
    );
    assert_eq!(btf.len(), base.len() + 5);
}

#[test]
fn a_module_must_agree_with_vmlinux() {
    let base = Arc::new(parse(&vmlinux()));
    let mut b = Builder::on(&base);
    b.structure("sk_buff", &[("mark", 1, 0)]);
    let btf = Btf::parse_split(&base, b.bytes()).unwrap();
    assert!(matches!(
        btf.member("sk_buff", "mark"),
        Err(LookupError::Disagreement { .. })
    ));
}

#[test]
fn every_known_kind_is_passed_over() {
    let mut b = Builder::new();
    for (kind, count, extra) in [
        (kind::ARRAY, 0, 3),
        (kind::ENUM, 2, 4),
        (kind::VOLATILE, 0, 0),
        (kind::RESTRICT, 0, 0),
        (kind::VAR, 0, 1),
        (kind::DATASEC, 2, 6),
        (kind::FLOAT, 0, 0),
        (kind::DECL_TAG, 0, 1),
        (kind::TYPE_TAG, 0, 0),
        (kind::ENUM64, 2, 6),
    ] {
        b.record("x", kind, false, count, 0, &vec![0; extra]);
    }
    let int = b.int("int", 4);
    b.structure("last", &[("member", int, 8)]);
    assert_eq!(parse(&b).member("last", "member"), Ok(8));
}

#[test]
fn an_unknown_kind_is_named() {
    let mut b = Builder::new();
    b.int("int", 4);
    b.record("", 20, false, 0, 0, &[]);
    let error = Btf::parse(b.bytes()).unwrap_err();
    assert_eq!(error.to_string(), "BTF type 2 is of unknown kind 20");
}

#[test]
fn types_that_refer_to_themselves_end() {
    let mut b = Builder::new();
    let itself = b.next();
    b.constant(itself);
    let nest = b.next();
    b.structure("nest", &[("", nest, 0), ("loop", itself, 8)]);
    let btf = parse(&b);
    assert!(matches!(
        btf.member("nest", "loop.x"),
        Err(LookupError::Broken(_))
    ));
    assert!(matches!(
        btf.member("nest", "missing"),
        Err(LookupError::Broken(_))
    ));
}

#[test]
fn truncated_input_is_an_error_at_every_length() {
    let bytes = vmlinux().bytes();
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn foreign_input_is_named() {
    let mut bytes = vmlinux().bytes();
    bytes[2] = 2;
    assert_eq!(Btf::parse(bytes.as_slice()).unwrap_err(), BtfError::Version(2));
    bytes.swap(0, 1);
    assert_eq!(Btf::parse(bytes.as_slice()).unwrap_err(), BtfError::ByteOrder);
    assert!(matches!(Btf::parse(b"\x7fELF").unwrap_err(), BtfError::Magic(_)));
}

#[test]
fn arbitrary_bytes_never_panic() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(btf) = Btf::parse(bytes) {
            ask(&btf);
        }
    });
}

#[test]
fn arbitrary_sections_never_panic() {
    let base = Arc::new(parse(&vmlinux()));
    bolero::check!()
        .with_type::<(Vec<u8>, Vec<u8>)>()
        .for_each(|(types, strings)| {
            let bytes = wrap(types, strings);
            if let Ok(btf) = Btf::parse(bytes.as_slice()) {
                ask(&btf);
            }
            if let Ok(btf) = Btf::parse_split(&base, bytes.as_slice()) {
                ask(&btf);
            }
        });
}

#[test]
fn valid_input_with_words_changed_never_panics() {
    let valid = vmlinux().bytes();
    let base = Arc::new(parse(&vmlinux()));
    bolero::check!()
        .with_type::<Vec<(u16, u8)>>()
        .for_each(|changes| {
            let mut bytes = valid.clone();
            for (at, value) in changes.iter().take(8) {
                let at = HEADER_LEN + usize::from(*at) % (bytes.len() - HEADER_LEN);
                bytes[at] = *value;
            }
            if let Ok(btf) = Btf::parse(bytes.as_slice()) {
                ask(&btf);
            }
            if let Ok(btf) = Btf::parse_split(&base, bytes.as_slice()) {
                ask(&btf);
            }
        });
}

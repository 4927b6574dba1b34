use super::super::builder::{ACCEPT, DROP, TableBuilder, rule};
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

//! Extensions that tracer does not know by name.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::account::Selection;
use crate::neighbours::FAMILIES;
use crate::traffic::{Place, send, stay_on_processor};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("paths::extensions::unknown", unknown)]
}

/// `rpfilter` is a match of two modules whose functions have one name, so the name is of no use: which function it is,
/// tracer learns from the kernel, as of any extension that it has never heard of.
fn unknown() -> Result<()> {
    const RULES: &str = "*raw\n:SEEN -\n\
         -A PREROUTING -p udp -m rpfilter --invert -j DROP\n\
         -A PREROUTING -p udp -m rpfilter -g SEEN\n\
         -A SEEN -p udp\n\
         COMMIT\n";
    stay_on_processor(0)?;
    for family in FAMILIES {
        family.restore(RULES)?;
        let address = family.loopback();
        let selection = Selection {
            family,
            matches: "-p udp",
            filter: "--proto udp",
        };
        selection.log()?;
        let socket = Place::Here.udp(address, 20_000)?;
        let lines = selection.compare(|_| send(&socket, (address, 20_001).into(), 10))?;
        ensure!(
            lines.iter().any(|line| line.step() == "raw:SEEN:rule:1"),
            "rpfilter did not match: {lines:#?}"
        );
    }
    Ok(())
}

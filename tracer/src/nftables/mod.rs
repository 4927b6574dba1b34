//! nf_tables: the rules of a network namespace, and the way of a packet through them.
//!
//! The programs send what the kernel's own trace calls were told: which rules of which chain matched, by handle.
//! [`source`] reads the rules over nfnetlink, [`walk`] makes steps of the handles and checks that they fit the rules,
//! [`explain`] finds the rules that were in force.

mod decode;
pub mod explain;
mod expression;
pub mod key;
mod key_of_map;
mod model;
pub mod netlink;
pub mod source;
pub mod text;
mod walk;

pub use model::{Base, Chain, Changes, Family, IpVersion, KeyPart, Rule, Ruleset, Statement, Table};
pub use walk::{Doubt, Event, What, walk};

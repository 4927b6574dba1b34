//! The walk through a table's rules, replayed: rules, the packet as the kernel saw it, and what was observed of
//! the functions whose answers cannot be known from these, in; the lines that TRACE would log, out.
//!
//! Everything here is a pure function without I/O. It is a literal replica of `ipt_do_table`
//! (`net/ipv4/netfilter/ip_tables.c`) and `ip6t_do_table` (`net/ipv6/netfilter/ip6_tables.c`), whose bodies say
//! the same from Linux 5.4 on, and of the match and target functions that [`purity`] calls [`Purity::Pure`].
//!
//! A path is never a guess. Where a function had to be observed and was not, where an observation does not fit,
//! where a replica would have to look at bytes that were not captured, or where the verdict at the end is another
//! than the kernel's, the path is [`Completeness::Partial`] and says why.
//!
//! One thing is taken for granted: that the kernel had memory. A target such as `TTL` drops the packet when it
//! cannot get a private copy of the header; a walk that then meets a `DROP` by other rules looks the same.

mod data;
mod functions;
mod header;
mod ipv6;
mod matches;
mod observation;
mod path;
mod purity;
mod targets;
mod view;
mod walk;
mod witness;

#[cfg(test)]
mod tests;

pub use functions::{Kind, function_name};
pub use observation::{HeadersAfter, Observation, Outcome, PacketAfter};
pub use path::{Completeness, Gap, Path, Reason, Step};
pub use purity::{Purity, changes_headers, purity};
pub use view::Overlong;
pub use walk::{walk, walk_knowing};
pub use witness::{Comparison, compare};

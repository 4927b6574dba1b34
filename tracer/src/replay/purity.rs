//! Which extensions the replay knows, and which have to be observed.

use super::{data::Data, matches, targets};
use crate::ruleset::{Extension, Table};

/// Where the outcome of an extension comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purity {
    /// It follows from the record. It need not be observed; where it is, both have to agree.
    Pure,
    /// It has to be observed.
    Observed,
}

/// Where the outcome of this use of an extension comes from; it depends on what the extension's data asks for.
/// What is not known here has to be observed.
///
/// Also of a pure extension the replay may not know the outcome for an unusual packet, such as one whose headers
/// were not captured far enough; then the path is partial.
#[must_use]
pub fn purity(extension: &Extension, table: &Table) -> Purity {
    // No match has the name of a target: matches are in lower case, targets in upper case.
    let data = Data::of(extension, table);
    let pure =
        matches::is_pure(extension, table.family, data) || targets::is_pure(extension, table.family, data);
    if pure { Purity::Pure } else { Purity::Observed }
}

/// Whether a target changes headers so that they have to be observed when it returns.
#[must_use]
pub fn changes_headers(extension: &Extension, table: &Table) -> bool {
    targets::changes_headers(extension, table.family, Data::of(extension, table))
}
